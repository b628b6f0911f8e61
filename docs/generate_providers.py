"""Writes docs/providers/*.md from the built-in presets and docs/providers/notes.yaml: `make docs`.

Rules:
* The same input gives the same bytes: no date, no clock, no order but that of the files.
* What the table of a page says is read from the targets that its own providers.yaml makes.
* A fact has one home: quirks stand in gateway/profiles.yaml, prose in notes.yaml, wording in sentences.yaml.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from docs.profile_words import WIRES, cells, codes, flow, read_yaml, sentence
from gateway.config import loads
from gateway.config.presets import ModelFacts, Preset, built_in
from gateway.profile import Profile, merge
from gateway.routing import Target

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "providers"
NOTES = FOLDER / "notes.yaml"
STREAMS = ROOT / "tests" / "streams"
RECORDED_AS = {"llamacpp": "llama.cpp", "lmstudio": "lm-studio"}
"""Providers whose folder of recordings has another name."""

MADE = (
    "<!-- Made by docs/generate_providers.py from gateway/profiles.yaml and notes.yaml. "
    "Change those, then run `make docs`. -->"
)


IN_TABLE = {
    *("api", "context_window", "max_output_tokens", "thinking_on", "thinking_off", "effort_field", "efforts"),
    *("budget_field", "images", "image_urls", "pdf", "cache", "tool_choice", "reasoning_back", "parallel_tool_calls"),
    *("session_field", "session_header", "encrypted_reasoning", "tool_choice_thinking"),
}
"""Fields that the table of a page shows for the models in it."""


# -- what the profiles say -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """What one page is made from."""

    preset: Preset
    notes: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.preset.name

    @property
    def wires(self) -> list[str]:
        return list(self.preset.apis)

    @property
    def has_messages(self) -> bool:
        return "anthropic" in self.preset.apis and self.preset.api != "anthropic"

    # -- its configuration ------------------------------------------------------------------------

    def section(self, api: str | None = None) -> str:
        """The provider's section of providers.yaml, in one line."""
        entries = dict(self.notes.get("section", {}))
        if api is not None:
            entries = {"api": api, **entries}
        parts = [f"{name}: {value}" for name, value in entries.items()]
        if self.preset.key_env:
            parts.append(f'api_key: "${{{self.preset.key_env}}}"')
        return f"{self.name}: {{{', '.join(parts)}}}"

    def configuration(self) -> str:
        models = self.notes["models"]
        lines = ["providers:", f"  {self.section()}", "", "models:"]
        lines += [f"  {name}: {self.name}/{model}" for name, model in models.items()]
        return "\n".join([*lines, "  default: sonnet"])

    def messages_configuration(self) -> str:
        model = self.notes["models"]["sonnet"]
        return f"providers: {{{self.section('anthropic')}}}\nmodels: {{default: {flow(f'{self.name}/{model}')}}}"

    def target(self, model: str, api: str | None = None) -> Target:
        """What ``model`` becomes with the configuration of this page."""
        text = f"providers:\n  {self.section(api)}\nmodels: {{m: {self.name}/{flow(model)}}}"
        env = {self.preset.key_env: "value"} if self.preset.key_env else {}
        return loads(text.encode(), self.name, env).table.resolve("m").targets[0]

    def targets(self) -> list[Target]:
        """The columns of the table: the models of the notes, the Messages wire last."""
        models = dict.fromkeys([*self.notes["models"].values(), *self.notes.get("also", ())])
        found = [self.target(model) for model in models]
        if self.has_messages:
            found.append(self.target(next(iter(models)), "anthropic"))
        return found

    # -- what is known of it ----------------------------------------------------------------------

    def facts(self) -> Iterator[ModelFacts]:
        yield from self.preset.models
        for wire in self.preset.apis.values():
            yield from wire.models

    def profiles(self) -> Iterator[Profile]:
        """What is known of every wire and pattern, whatever the model is."""
        for api in self.preset.apis:
            base = self.profile(api)
            yield base
            for facts in self.facts():
                yield merge(base, facts.profile)

    def profile(self, api: str) -> Profile:
        """What holds on one wire for a model that nothing is known of."""
        wire = self.preset.apis[api]
        return merge(Profile(api=api), built_in().apis.get(api, {}), self.preset.profile, wire.profile)

    def differences(self, api: str) -> dict[str, Any]:
        """Field -> value, where this provider differs from others that speak ``api``."""
        usual = merge(Profile(api=api), built_in().apis.get(api, {}))
        own = self.profile(api)
        names = (item.name for item in fields(Profile))
        return {name: getattr(own, name) for name in names if getattr(own, name) != getattr(usual, name)}

    def recordings(self) -> list[str]:
        folder = STREAMS / RECORDED_AS.get(self.name, self.name)
        return sorted(path.name.removesuffix(".expected.json") for path in folder.glob("*.expected.json"))


# -- the parts of a page -------------------------------------------------------------------------------


def heading(page: Page) -> Iterator[str]:
    yield MADE
    yield f"# {page.notes['title']}"
    yield ""
    key = f"Key: `{page.preset.key_env}`." if page.preset.key_env else "It needs no key."
    yield f"{page.notes['about'].strip()} {key} The name of the profile is `{page.name}`. [All providers](README.md)"


def configuration(page: Page) -> Iterator[str]:
    yield "## providers.yaml"
    yield ""
    yield from ("```yaml", page.configuration(), "```")
    if page.has_messages:
        yield ""
        yield page.notes.get("messages", "It has an Anthropic-compatible endpoint, too.").strip()
        yield ""
        yield from ("```yaml", page.messages_configuration(), "```")
    addresses = page.notes.get("addresses", ())
    if addresses:
        yield ""
        yield "Sections for its other addresses:"
        yield ""
        yield from (f"- {address['what']}: `{address_section(page, address)}`" for address in addresses)


def address_section(page: Page, address: Mapping[str, Any]) -> str:
    parts = [f"preset: {page.name}"]
    if "api" in address:
        parts.append(f"api: {address['api']}")
    parts.append(f'base_url: "{address["base_url"]}"')
    key = address.get("key", page.preset.key_env)
    if key:
        parts.append(f'api_key: "${{{key}}}"')
    return "{" + ", ".join(parts) + "}"


def wires(page: Page) -> Iterator[str]:
    yield "## Which wire"
    yield ""
    yield "| wire | `api` | the gateway calls | who speaks it |"
    yield "|---|---|---|---|"
    chosen: dict[str, list[str]] = {api: [] for api in page.preset.apis}
    for facts in page.preset.models:
        if "api" in facts.profile:
            chosen.setdefault(facts.profile["api"], []).append(facts.pattern)
    for api, wire in page.preset.apis.items():
        name, path = WIRES[api]
        others = any(patterns for other, patterns in chosen.items() if other != api)
        if api == page.preset.api:
            who = "all other models" if others else "every model"
        else:
            who = codes(chosen[api]) if chosen[api] else f"who asks for it with `api: {api}`"
        yield f"| {name} | `{api}` | `{wire.base_url}{path}` | {who} |"


def columns(page: Page) -> dict[tuple[str, ...], list[str]]:
    """Cells -> the models that they are said of."""
    found: dict[tuple[str, ...], list[str]] = {}
    for target in page.targets():
        said = cells(target.profile, page.notes.get("shown", {}))
        found.setdefault(tuple(said.values()), []).append(target.model)
    return found


def works(page: Page) -> Iterator[str]:
    found = columns(page)
    yield "## What works"
    yield ""
    yield f"| | {' | '.join(map(codes, found.values()))} |"
    yield "|---" * (len(found) + 1) + "|"
    for name, *row in zip(cells(page.profile(page.preset.api), {}), *found, strict=True):
        yield f"| {name} | {' | '.join(row)} |"
    yield ""
    yield from (f"- {note.strip()}" for note in page.notes["notes"])


def changed(page: Page) -> Iterator[str]:
    yield "## What is dropped or changed"
    yield ""
    yield "- What holds for [every provider of that wire](../compatibility.md) holds here too."
    differences = {api: page.differences(api) for api in page.preset.apis}
    told: set[tuple[str, str]] = set()
    lines: dict[str, list[str]] = {}
    for api, found in differences.items():
        for name, value in found.items():
            text = sentence(name, value)
            if name in IN_TABLE or not text:
                continue
            everywhere = all(differences[other].get(name) == value for other in differences)
            place = "" if everywhere else api
            if (place, text) not in told:
                told.add((place, text))
                lines.setdefault(place, []).append(text)
    yield from (f"- {text}" for text in lines.pop("", []))
    for api, texts in lines.items():
        yield f"- {WIRES[api][0]}: {' '.join(texts)}"
    yield from model_lines(page)


MOST_MODEL_LINES = 7
LIMITS = {"context_window", "max_output_tokens", "api"}
"""Fields of model patterns that the table shows, or the list of wires."""


def model_lines(page: Page) -> Iterator[str]:
    """What differs for some models, limits aside."""
    grouped: dict[tuple[str, int], tuple[Mapping[str, Any], list[str]]] = {}
    for api, models in [("", page.preset.models), *((api, wire.models) for api, wire in page.preset.apis.items())]:
        for facts in models:
            # The patterns of one list share their layer.
            grouped.setdefault((api, id(facts.profile)), (facts.profile, []))[1].append(facts.pattern)
    said: dict[str, list[str]] = {}
    for (api, _), (layer, patterns) in grouped.items():
        where = f" ({WIRES[api][0]})" if api and len(page.preset.apis) > 1 else ""
        texts = [text for name, value in layer.items() if name not in LIMITS and (text := sentence(name, value))]
        if texts:
            who = "every model" if patterns == ["*"] else codes(patterns, 6)
            said.setdefault(who + where, []).extend(texts)
    lines = [f"- For {who}: {' '.join(texts)}" for who, texts in said.items()]
    yield from lines[:MOST_MODEL_LINES]
    if len(lines) > MOST_MODEL_LINES:
        yield f"- More rules for some models ({len(lines) - MOST_MODEL_LINES}) stand in `gateway/profiles.yaml`."


def problems(page: Page) -> Iterator[str]:
    yield "## Known problems"
    yield ""
    yield from (f"- {problem.strip()}" for problem in page.notes["problems"])


BY_HAND = "Each was written by hand after documents and streams of other projects, with its source and its result."
NEVER_ASKED = (
    "No request was ever sent to this provider by us. A conversation of ten turns is sent to a fake "
    "that refuses what the documents say is refused."
)


def verified(page: Page) -> Iterator[str]:
    yield "## How it was verified"
    yield ""
    yield f"- {page.notes.get('live', NEVER_ASKED).strip()}"
    names = page.recordings()
    if names:
        folder = RECORDED_AS.get(page.name, page.name)
        count = "One recording" if len(names) == 1 else f"{len(names)} recordings"
        yield f"- {count} in [tests/streams/{folder}](../../tests/streams/{folder}): {codes(names, 30)}. {BY_HAND}"
    else:
        yield "- There is no recording of it: the facts are from documents, and from the code of maintained clients."
    if "verified" in page.notes:
        yield f"- {page.notes['verified'].strip()}"
    yield (
        "- The source of every fact stands beside it in [gateway/profiles.yaml](../../gateway/profiles.yaml). "
        f"See for yourself: `gateway check --live {page.name}` asks some small questions ([more](../check.md))."
    )


PARTS = (heading, configuration, wires, works, changed, problems, verified)


# -- all pages -----------------------------------------------------------------------------------------


INTRODUCTION = """\
One page each: what to paste, what works, what does not, and how far that was tried. A provider that is missing here
works too, with `api` and `base_url` ([configuration](../configuration.md)); to make it known to all, see
[CONTRIBUTING](../../CONTRIBUTING.md).
"""

LEGEND = """\
**Reasoning**: how it can be asked for, by any model there. **Cache**: *marks*, `cache_control` is kept or translated
on some wire; *session*, the session id is sent, so that a conversation finds its cache again; *its own*, nothing is
sent. **Verified**: *live*, a real server answered; *recordings*, streams written by hand after documentation and other
projects' recordings; *documents*, neither. No hosted provider was ever called from this repository.
"""


def verification(page: Page) -> str:
    if "live" in page.notes:
        return "live"
    count = len(page.recordings())
    return f"{count} recording{'s' * (count != 1)}" if count else "documents"


def index_row(page: Page) -> str:
    profiles = list(page.profiles())
    ways = [
        word
        for word, name in (("switch", "thinking_off"), ("effort", "effort_field"), ("budget", "budget_field"))
        if any(getattr(profile, name) for profile in profiles)
    ]
    seen = {profile.images for profile in profiles}
    kept = {profile.cache for profile in profiles} - {"none"}
    session = any(profile.session_field or profile.session_header for profile in profiles)
    cells = (
        f"[{page.name}]({page.name}.md)",
        ", ".join(f"`{api}`" for api in page.wires),
        f"`{page.preset.base_url}`",
        f"`{page.preset.key_env}`" if page.preset.key_env else "none",
        ", ".join(ways) or ("passed" if page.preset.api == "anthropic" else "the model decides"),
        "yes" if seen == {True} else "some models" if seen == {True, False} else "no",
        ", ".join([*(["marks"] if kept else []), *(["session"] if session else [])]) or "its own",
        verification(page),
    )
    return f"| {' | '.join(cells)} |"


def index(pages: Sequence[Page]) -> Iterator[str]:
    yield MADE
    yield "# Providers"
    yield ""
    yield from (*INTRODUCTION.splitlines(), "")
    yield "| name | wires, the usual one first | address | key | reasoning | images | cache | verified |"
    yield "|---|---|---|---|---|---|---|---|"
    yield from map(index_row, pages)
    yield ""
    yield from LEGEND.splitlines()


def pages() -> dict[str, str]:
    """File name -> text, for every file of docs/providers but the notes."""
    notes = read_yaml(NOTES)
    presets = built_in().providers
    made = [Page(presets[name], notes[name]) for name in sorted(presets) if name != "echo"]
    texts = {f"{page.name}.md": ["\n".join(part(page)) for part in PARTS] for page in made}
    files = {name: "\n\n".join(parts) + "\n" for name, parts in texts.items()}
    return {**files, "README.md": "\n".join(index(made)) + "\n"}


def main() -> None:
    """Writes what differs, removes pages of providers that are gone, and says so."""
    wanted = pages()
    for path in sorted(FOLDER.glob("*.md")):
        if path.name not in wanted:
            path.unlink()
            print(f"removed {path.relative_to(ROOT)}")
    for name, text in wanted.items():
        path = FOLDER / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
