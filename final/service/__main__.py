"""``python -m final.service`` is ``python -m final serve``."""

import sys

from final.service.cli.app import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])
