"""The fenced blocks of README and docs/: which of them are run, and what they print.

A comment in the line above a block says what it is:

- `<!-- test: NAME -->` (sh, sql or python): it is run. Blocks of one name in one document run one after the other, in
  one shell; those in sql are sent to psql, which shows no CONTEXT. `<!-- test: NAME, as FILE -->`: it is written there.
- `<!-- output -->`: what the block before it prints, errors included, which then have to come. `[...]` stands for any
  text in a line or, alone in one, for any lines. Durations are not compared.
- `<!-- workflow: SYSTEM -->` (yaml): tests/acceptance/test_pipelines.py checks it and runs its commands.
- `<!-- transcript: NAME -->`, or the language mermaid: nothing to run.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
WRITE = bool(os.environ.get("PYFLOWGUARD_WRITE_DOCS"))
"""Whether the outputs in the documents are written anew (`make docs`) rather than compared."""

_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_SHORTENED = "[...]"
_END = "<<< block ended with"


@dataclass(frozen=True)
class Block:
    """A fenced block, with what stands right after it as its output."""

    document: Path
    line: int
    mark: str
    language: str
    text: str
    output: str | None = None

    @property
    def test(self) -> str:
        """Name of the test that it is part of; empty where it is none of one."""
        kind, _, name = self.mark.partition(": ")
        return name.partition(", as ")[0] if kind == "test" else ""

    @property
    def file(self) -> str:
        """Name of the file that it is written to; empty where it is run."""
        return self.mark.partition(", as ")[2]

    @property
    def place(self) -> str:
        """Where it is."""
        return f"{self.document.name}:{self.line}"

    @property
    def is_refused(self) -> bool:
        """Whether it has to end with an error."""
        return self.output is not None and re.search(r"^ERROR:", self.output, re.MULTILINE) is not None


def read_blocks(document: Path) -> list[Block]:
    """Give the blocks of a document; an output is part of the block before it."""
    text = document.read_text(encoding="utf-8")
    blocks: list[Block] = []
    end = 0
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        block = Block(document, line, found["mark"] or "", found["language"], found["text"])
        if block.mark == "output" and blocks and not text[end : found.start()].strip():
            blocks[-1] = replace(blocks[-1], output=block.text)
        else:
            blocks.append(block)
        end = found.end()
    return blocks


def read_tests(document: Path) -> dict[str, list[Block]]:
    """Give the blocks of a document that are run, by name."""
    tests: dict[str, list[Block]] = {}
    for block in read_blocks(document):
        if block.test:
            tests.setdefault(block.test, []).append(block)
    return tests


def run_blocks(blocks: Sequence[Block], environment: Mapping[str, str]) -> list[str]:
    """Run blocks in the checkout in one shell, and give what each printed; they must end as their outputs say."""
    script = "".join(f"{_command(block)}\nprintf '\\n{_END} %s\\n' $status\n" for block in blocks)
    result = subprocess.run(
        ["/bin/bash", "-uo", "pipefail", "-c", f"exec 2>&1\n{script}"],
        env={**environment, "PGTZ": "UTC", "LC_ALL": "C.UTF-8"},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    *printed, _ = re.split(rf"\n{_END} (\d+)\n", result.stdout)
    outputs, states = printed[::2], printed[1::2]
    for block, output, state in zip(blocks, outputs, states, strict=False):
        assert (state != "0") == block.is_refused, f"{block.place} ended with {state}:\n{output}"
    assert len(outputs) == len(blocks), f"{blocks[len(outputs)].place}: {result.stdout}"
    return [output.strip("\n") for output in outputs]


def _command(block: Block) -> str:
    if block.language == "sql":
        return (
            f"psql -qX -v ON_ERROR_STOP=1 -v SHOW_CONTEXT=never <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK\nstatus=$?"
        )
    if block.file:
        return f"cat > {block.file} <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK\nstatus=$?"
    if block.language == "python":
        return f"python - <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK\nstatus=$?"
    # A failure anywhere in the block counts, and what it exports is there for the next one.
    return f"trap 'status=$?' ERR; status=0\n{block.text}trap - ERR"


def is_printed(expected: str, printed: str) -> bool:
    """Say whether a block printed what its document shows."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == _SHORTENED else re.escape(line).replace(re.escape(_SHORTENED), ".*") + r"\n"
        for line in _lines(expected)
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _lines(printed))) is not None


def _lines(text: str) -> list[str]:
    return [re.sub(r"\d+\.\d s\b", "N.N s", line.rstrip()) for line in text.strip("\n").split("\n")]


def write_outputs(document: Path, blocks: Sequence[Block], printed: Sequence[str]) -> None:
    """Write what blocks printed into their document, but for outputs that are shortened."""
    lines = document.read_text(encoding="utf-8").splitlines(keepends=True)
    for block, output in reversed(list(zip(blocks, printed, strict=True))):  # lines above keep their numbers
        if block.output is not None and not is_printed(block.output, output) and _SHORTENED not in block.output:
            first = (
                block.line + block.text.count("\n") + 4
            )  # past the fence, a blank line, the mark and the other fence
            last = first + block.output.count("\n")
            assert "".join(lines[first:last]) == block.output, block.place
            lines[first:last] = [f"{line.rstrip()}\n" for line in output.split("\n")]
    document.write_text("".join(lines), encoding="utf-8")
