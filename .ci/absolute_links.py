"""Make the links of README.md absolute, before a version is built for the package index.

    python .ci/absolute_links.py

The address is the `url` in setup.cfg. Without one, links stay relative, as in the repository.
"""

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
BRANCH = "main"


def with_absolute_links(readme: str, repository: str) -> str:
    """Return the README with links that work outside of the repository, if it has an address."""
    if not repository:
        return readme

    def absolute(link: re.Match) -> str:
        kind = "raw" if link[1].startswith("!") else "blob"
        return f"{link[1]}({repository}/{kind}/{BRANCH}/{link[2]})"

    return re.sub(r"(!?\[[^\]]*\])\((?!https?:|#)([^)]+)\)", absolute, readme)


if __name__ == "__main__":
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", "utf-8")
    readme = ROOT / "README.md"
    address = settings["metadata"].get("url", "").rstrip("/")
    readme.write_text(with_absolute_links(readme.read_text("utf-8"), address), "utf-8")
