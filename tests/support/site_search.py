"""The search of the built documentation, ranked as Sphinx's searchtools.js does, without a browser.

python -m tests.support.site_search docs/_build/html docs/search_words.csv

Build the site with the option -E before: otherwise Sphinx forgets the index entries of pages that
it does not read again, and words that lead to them are missed.
"""

import csv
import json
import re
import sys
from pathlib import Path

from sphinx.search.en import SearchEnglish

FIRST = 4  # results among which a reader finds the page
# What a match counts, as in searchtools.js.
TITLE, PART_OF_TITLE, TERM, PART_OF_TERM, INDEX_ENTRY, OBJECT, PART_OF_OBJECT = (
    15, 7, 5, 2, 100, 11, 6
)  # fmt: skip
PRIORITY = {0: 15, 1: 5, 2: -5}


class SiteSearch:
    """The search of a built site.

    Parameters
    ----------
    site : Path
        The folder of the site.
    """

    def __init__(self, site):
        text = (site / "searchindex.js").read_text("utf-8")
        self.index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
        self.language = SearchEnglish({})

    def pages(self, query):
        """Return the names of the pages found, the best first, each once."""
        found = [*self._titles(query), *self._entries(query)]
        found += [*self._objects(query), *self._words(query)]
        names, titles = self.index["docnames"], self.index["titles"]
        found.sort(key=lambda one: (-one[0], titles[one[1]].lower()))
        return list(dict.fromkeys(names[page] for _, page in found))

    def _titles(self, query):
        for title, places in self.index["alltitles"].items():
            if query.lower() in title.lower() and len(query) >= len(title) / 2:
                for page, _ in places:
                    whole = self.index["titles"][page] == title
                    yield round(TITLE * len(query) / len(title)) + whole, page

    def _entries(self, query):
        for entry, places in self.index["indexentries"].items():
            if query.lower() in entry and len(query) >= len(entry) / 2:
                for page, _, is_main in places:
                    score = round(INDEX_ENTRY * len(query) / len(entry))
                    yield (score if is_main else score - 1000), page  # after all other results

    def _objects(self, query):
        wanted = set(re.findall(r"\w+", query.lower()))
        kinds, titles = self.index["objnames"], self.index["titles"]
        for prefix, objects in self.index["objects"].items():
            for page, kind, priority, _, name in objects:
                full = f"{prefix}.{name}".lstrip(".").lower()
                last = full.rpartition(".")[2]
                context = f"{prefix} {name} {kinds[str(kind)][2]} {titles[page]}".lower()
                for word in wanted:
                    if word in full and all(other in context for other in wanted - {word}):
                        score = PART_OF_OBJECT if word in last else 0
                        score = OBJECT if word in (full, last) else score
                        yield score + PRIORITY.get(priority, 0), page

    def _words(self, query):
        words = [word for word in re.findall(r"\w+", query) if self._counts(word)]
        stems = {self.language.stem(word.lower()) for word in words}
        found = [self._pages_of(stem) for stem in stems]
        common = set.intersection(*map(set, found)) if found else set()
        for page in common:
            yield max(scores[page] for scores in found), page

    def _counts(self, word):
        return word.lower() not in self.language.stopwords and not word.isdigit()

    def _pages_of(self, stem):
        """Return the score of each page that contains a stem."""
        scores = {}
        for words, whole, part in (
            (self.index["terms"], TERM, PART_OF_TERM),
            (self.index["titleterms"], TITLE, PART_OF_TITLE),
        ):
            matches = [stem] if stem in words else [w for w in words if len(stem) > 2 and stem in w]
            for word in matches:
                pages = words[word] if isinstance(words[word], list) else [words[word]]
                scores.update(dict.fromkeys(pages, whole if word == stem else part))
        return scores


def main(site, table):
    """Print the first pages of each phrase; return whether each finds the page in the table."""
    search, missed = SiteSearch(Path(site)), 0
    with Path(table).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            pages = search.pages(row["words"])[:FIRST]
            found = row["page"] in pages
            missed += not found
            print(f"{'' if found else 'MISSED '}{row['words']}: {', '.join(pages) or 'nothing'}")
            if not found:
                print(f"    expected {row['page']} among the first {FIRST}")
    return missed == 0


if __name__ == "__main__":
    sys.exit(not main(*sys.argv[1:]))
