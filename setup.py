"""Make README.md the description of the package; setup.cfg has everything else."""

import re
from pathlib import Path

from setuptools import setup

REPOSITORY = ""  # FILL IN: the repository's address, without a slash at its end
BRANCH = "main"


def description(readme: str, repository: str) -> str:
    """Return the README with links that work outside of the repository, once it has an address."""
    if not repository:
        return readme

    def absolute(link: re.Match) -> str:
        kind = "raw" if link[1].startswith("!") else "blob"
        return f"{link[1]}({repository}/{kind}/{BRANCH}/{link[2]})"

    return re.sub(r"(!?\[[^\]]*\])\((?!https?:|#)([^)]+)\)", absolute, readme)


if __name__ == "__main__":
    addresses = {"Source": "", "Changelog": "/blob/main/CHANGELOG.md"} if REPOSITORY else {}
    setup(
        long_description=description(Path("README.md").read_text("utf-8"), REPOSITORY),
        long_description_content_type="text/markdown",
        project_urls={name: REPOSITORY + path for name, path in addresses.items()},
    )
