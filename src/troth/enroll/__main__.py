"""``python -m troth.enroll`` is the same as the command ``troth-enroll``."""

from troth.enroll.main import main

if __name__ == "__main__":
    main()
