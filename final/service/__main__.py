"""``python -m final.service``: the demo service. See ``python -m final serve`` for the rest."""

from final.service.server import main

if __name__ == "__main__":
    main()
