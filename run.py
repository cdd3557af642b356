"""Few-shot unlearning from the command line; `python run.py --help` lists the knobs."""

from unlearn.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
