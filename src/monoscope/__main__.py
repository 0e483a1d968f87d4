"""``python -m monoscope`` is the command ``monoscope``."""

from monoscope.cli.app import main

if __name__ == "__main__":
    main()
