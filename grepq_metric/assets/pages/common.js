"use strict";
// Text from the data goes through textContent and properties alone, never through HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

function make(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function draws(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function count(number) {
  return number.toLocaleString("en");
}

function told(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return Math.abs(value) < 10000 ? String(value) : count(value);
  return String(Number(value.toPrecision(4)));
}

function fileName(path) {
  return path.split(/[\\/]/).pop() || path;
}
