"""The manual page, the README and the program name the same things: every message about a failure, every variable,
every command."""

import pathlib
import re
import shutil
import subprocess

import pytest

from lab import IAMCAT, ROOT

MANUAL, README = ROOT / "iamcat.1", ROOT / "README.md"
TEXT = r'"(?:[^"\\\n]|\\.)*"'

# Of three words and more, in the program's text, but nothing that would need a cure.
NO_FAILURE = {
    "embedded root certificates", "usage: iamcat [-c FILE] [check | status [--json] [--watch] | health] iamcat --help | --version",
    "A variable whose value is empty counts as not set.",
    "it has changed, and its certificates are trusted from now on", "this machine's clock has been set",
    "requests on", "in service: connected to", "connecting anew, for requests that had no room",
    "the token is about to expire: connecting anew with the next one",
    "trying again in", "the broker ended", "bytes; at most", "at byte", "checked for", "issued by",  # parts
    "serial number", "arrived, bytes", "answered, packet", "acknowledged, packet",
    "the gateway's API", "MQTT_PASSWORD (or MQTT_PASSWORD_FILE)",
    "files and ports", "system calls",  # what the sandbox has taken away
    "The iamcat to ask is found by its configuration: give the same with -c FILE.",  # follows the mistakes in it
    "SIGUSR1: the debug log is on", "SIGUSR1: the debug log is off", "404 Not Found", "503 Service Unavailable",
    # what iamcat status and iamcat health show
    "in this phase for", "out of service for", "age of the token", "age of the state", "states that failed",
    "request to answer", "s (healthy up to", "# HELP iamcat_", "# TYPE iamcat_", "what runs where",
    "No devices open",  # what the API says
}


def plain(text: str) -> str:
    """Without what joins it to the rest of its line."""
    return " ".join(text.split()).strip(" ;:,")


def texts(code: str) -> list[str]:
    """The strings in C code, those that stand side by side as one; without comments, assertions, and the table of
    variables and the text of --help, which test_config.py has."""
    code = re.sub(rf"({TEXT})|/\*.*?\*/|'(?:\\.|[^'\\])'", lambda m: m[1] or " ", code, flags=re.DOTALL)
    for what in (r"(?:_S|s)tatic_assert\(.*?\);", r"static const struct variable variables.*?\n};",
                 r"static int print_help\(void\)\n{.*?\n}"):
        code = re.sub(what, " ", code, flags=re.DOTALL)
    found = re.findall(rf"{TEXT}(?:\s*{TEXT})*", code)
    joined = ("".join(part[1:-1] for part in re.findall(TEXT, one)) for one in found)
    return [text.replace(r"\n", " ") for text in joined if not re.search(r'\\r|\\":|\\", |^\\"', text)]  # no headers, no members of JSON


def program() -> set[str]:
    """What it can say: every text of three words and more, but for what iamcat check adds to it, and for the phases
    that it tells systemd."""
    files = [path for path in ROOT.glob("*.c") if path.name not in ("check.c", "notify.c")]
    assert len(files) > 15
    said = {plain(re.sub(r"\\(.)", r"\1", text)) for path in files for whole in texts(path.read_text())
            for text in re.split(r"%(?:\.\d+)?(?:s|u)", whole) if len(text.split()) >= 3}
    assert NO_FAILURE <= said, NO_FAILURE - said
    return said - NO_FAILURE


def manual() -> set[str]:
    section = MANUAL.read_text().split(".Sh DIAGNOSTICS")[1].split("\n.Sh ")[0]
    found = re.findall(r'^\.It Sy "(.*)"$', section, re.MULTILINE)
    assert len(found) == len(set(found)), "a message is there twice"
    texts = (text.replace('""', '"').replace(r"\&", "").replace(r"\-", "-").replace(r"\e", "\\") for text in found)
    return set(texts)


def readme() -> set[str]:
    section = README.read_text().split("\n## Troubleshooting\n")[1].split("\n## ")[0]
    items = [" ".join(item.split()).split(" — ") for item in re.findall(r"^- (.*(?:\n  .*)*)", section, re.MULTILINE)]
    assert items and all(len(item) == 2 and len(item[1]) > 10 for item in items), "each has cause and cure"
    return {plain(text) for item in items for text in re.findall("`([^`]+)`", item[0])}


@pytest.mark.parametrize("where", [manual, readme])
def test_every_message_is_explained(where):
    said, explained = program(), where()
    assert len(said) > 200
    assert sorted(said - explained) == [], "to be explained"
    assert sorted(explained - said) == [], "nobody says this any more"


def help_text(binaries: None) -> str:
    return subprocess.run([IAMCAT, "--help"], capture_output=True, text=True, check=True).stdout


def test_every_variable_is_explained(binaries: None):
    names = re.findall(r"^  ([A-Z_]{6,}) ", help_text(binaries), re.MULTILINE)
    assert len(names) > 20
    assert sorted(re.findall(r"^\.It Ev (\S+)$", MANUAL.read_text(), re.MULTILINE)) == sorted(names)
    table = README.read_text().split("## Configure")[1].split("\n## ")[0]
    assert set(re.findall(r"`([A-Z_]{6,})`", table)) == set(names)


def test_defaults_and_limits_are_the_same_everywhere(binaries: None):
    """What --help says of a variable, its row in the README and its paragraph in the manual page say, too, and the
    example shows it. Everybody knows those of a port."""
    table = README.read_text().split("## Configure")[1].split("\n## ")[0].splitlines()
    manual = dict(re.findall(r"\.It Ev (\S+)\n((?:(?!\.It |\.El).*\n)+)", MANUAL.read_text()))
    example = (ROOT / "mqtt.env.example").read_text()
    rows = re.findall(r"^  ([A-Z_]{6,}) +(.*)$", help_text(binaries), re.MULTILINE)
    for name, text in rows:
        row = next(line for line in table if line.startswith("|") and f"`{name}`" in line)
        setting = re.search(rf"((?:^# .*\n)+)(?:^#?[A-Z_]+=.*\n)*?^#?{name}=(.*)$", example, re.MULTILINE)
        if default := re.search(r"\(default ([^)]*)\)", text):
            assert re.search(rf"\b{default[1]}\b", row.split("|")[2]), row
            assert f"({default[1]})" in manual[name], name
            assert setting[2] == default[1], name
        limits = re.search(r"\d+ to \d+", text)
        if limits and limits[0] != "1 to 65535":
            for where in row, manual[name], setting[1]:
                assert limits[0] in where, (name, where)
    assert len(rows) > 20


def test_every_file_has_its_place():
    """In the README's tables; headers stand beside their files."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not tracked:
        pytest.skip("no clone")
    code = README.read_text().split("\n## The code\n")[1]
    named = {*re.findall(r"`(\w[\w.]*)/?`", code)} - {"mqtt.env"}
    sources = {path for path in tracked if re.fullmatch(r"\w+\.(c|py|1)", path)}
    sources |= {path for path in tracked if re.fullmatch(r"\w+\.h", path) and f"{path[:-2]}.c" not in sources}
    tests = {path.split("/")[1] for path in tracked if path.startswith("test/")}
    assert len(sources) > 25 and (sources | tests) - named == set()
    assert {name for name in named if "." in name} - {path.split("/")[-1] for path in tracked} == set(), "they are gone"


def test_every_command_is_explained(binaries: None):
    commands = set(re.findall(r"(?:usage:|      ) iamcat (.*?)(?:  |$)", help_text(binaries), re.MULTILINE))
    synopsis = MANUAL.read_text().split(".Sh SYNOPSIS")[1].split(".Sh ")[0]
    shown = [re.sub(r"\n\.Op Fl Fl (\w+)", r" [--\1]", form) for form in re.split(r"\n\.Nm", synopsis)[1:]]
    shown = [re.sub(r"\n\.(Cm|Fl) ", " ", form).replace("\n.Op Fl c Ar file", " [-c FILE]").replace("Fl ", "--")
             for form in shown]
    assert {" ".join(form.split()) for form in shown} == commands
    for command in commands:
        word = (command.removeprefix("[-c FILE]").split() or ["-c"])[0]
        assert f"iamcat {word}" in README.read_text(), word


def section(path: pathlib.Path, name: str) -> str:
    """Of the manual page or the README, in one line."""
    head = r"\.Sh" if path == MANUAL else "##"
    return " ".join(re.split(rf"^{head} {name}$(.*?)(?:^{head} |\Z)", path.read_text(), flags=re.M | re.S)[1].split())


def test_every_signal_is_explained():
    code = (ROOT / "iamcat.c").read_text().split("static void set_up_signals(void)")[1].split("\n}")[0]
    handled = set(re.findall(r"SIG[A-Z0-9]+", code))
    assert len(handled) > 4 and set(re.findall(r"SIG[A-Z0-9]+", section(MANUAL, "SIGNALS"))) == handled


def test_every_exit_status_of_check_is_explained():
    steps = (ROOT / "check.c").read_text().split("steps[CHECK_STEPS] = {")[1].split("\n};")[0]
    names = re.findall(r'^ +\{"([^"]+)"', steps, re.M)
    told = ", ".join(f"{number} {name}" for number, name in enumerate(names[1:], 3))
    assert len(names) == 9 and told in section(MANUAL, "EXIT STATUS") and told in section(README, "Configure")


def test_every_word_of_the_figures_is_explained():
    """Phases, and reasons: those of requests that were skipped, and of connections that ended."""
    code = (ROOT / "figures.c").read_text()
    lists = re.findall(r"\*const (?:phases|skips|ends)\[\w+\] = \{(.*?)\};", code, re.S)
    words = {word for text in lists for word in re.findall('"(.*?)"', text)} - {"done"}  # then nobody answers
    assert len(lists) == 3 and len(words) > 20
    assert words - {*re.findall(r"\w+", section(MANUAL, "FIGURES"))} == set()
    assert words - {*re.findall(r"`(\w+)`", section(README, r"How is it doing\?"))} == set()


def test_no_text_has_a_gap_that_buf_put_text_does_not_know():
    """The compiler takes all of printf's."""
    for source in sorted(ROOT.glob("*.c")):
        gaps = re.findall(r"%(?:[a-z]+|[.\d]+[a-z]?)", " ".join(re.findall(r'"(?:[^"\\\n]|\\.)*"', source.read_text())))
        assert [gap for gap in gaps if not re.fullmatch(r"%(s|u|\.\d+s)[a-z]*", gap)] == [], source.name


def test_the_page_is_well_made():
    """make lint has mandoc; where it is not installed there, this says so."""
    assert shutil.which("mandoc"), "mandoc is missing: make deps"
    checked = subprocess.run(["mandoc", "-Tlint", MANUAL], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    page = subprocess.run(["mandoc", "-Tascii", "-Owidth=78", MANUAL], capture_output=True, text=True).stdout
    plain_page = re.sub(".\b", "", page)
    assert max(len(line) for line in plain_page.splitlines()) <= 80
    assert "the broker refuses the client id" in plain_page

