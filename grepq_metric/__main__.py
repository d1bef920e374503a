"""``python -m grepq_metric``: the command line, where its script is not on the path."""

from grepq_metric.cli import main

if __name__ == "__main__":
    main()
