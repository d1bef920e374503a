"""Measurements that we publish; each is a module that runs with ``python -m``."""
