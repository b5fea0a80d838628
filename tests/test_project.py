"""What the project says of itself agrees with itself: versions, citations of the method, templates, hooks."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from setuptools import find_packages

import EAT

from .conftest import ROOT

CITED = re.compile(r"method (?:sections? )?(\d(?:\.\d)?)(?: and (\d(?:\.\d)?))?")
SUBJECTS = {
    "1": "filterbank",
    "2": "student",
    "3": "masking",
    "4": "decoder",
    "5": "teacher",
    "6": "objective",
    "7": "fine-tuning",
}


def headings() -> dict[str, str]:
    found = re.findall(r"^##+ (\d(?:\.\d)?) (.+)$", (ROOT / "docs" / "method.md").read_text(), re.MULTILINE)
    return {number: title.lower() for number, title in found}


def cited() -> dict[str, list[str]]:
    """Sections of docs/method.md that docstrings cite, and the files that do."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "EAT").rglob("*.py")):
        for match in CITED.finditer(path.read_text()):
            for number in filter(None, match.groups()):
                found.setdefault(number, []).append(path.name)
    return found


def test_every_section_that_is_cited_exists() -> None:
    sections = headings()
    assert len(sections) > 12
    for number, subject in SUBJECTS.items():
        assert subject in sections[number]
    assert set(cited()) <= set(sections), cited()


def test_modules_cite_the_section_they_implement() -> None:
    wanted = {
        "front_end.py": "1",
        "recordings.py": "1.1",
        "patches.py": "2.1",
        "positions.py": "2.2",
        "block.py": "2.5",
    }
    wanted |= {"masking.py": "3", "decoder.py": "4", "teacher.py": "5", "classifier.py": "7"}
    by_number = cited()
    for name, number in wanted.items():
        assert name in by_number[number], (name, number)


def test_versions_agree() -> None:
    newest = re.search(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert newest is not None and newest[1] == EAT.__version__ == citation["version"]
    assert citation["preferred-citation"]["title"] in (ROOT / "README.md").read_text().replace("{EAT}", "EAT")


def test_types_ship_with_the_package() -> None:
    call = next(n for n in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(n, ast.Call)
                and getattr(n.func, "id", "") == "setup")  # fmt: skip
    data = ast.literal_eval(next(keyword.value for keyword in call.keywords if keyword.arg == "package_data"))
    assert "EAT" in find_packages(str(ROOT), include=["EAT", "EAT.*"])
    for elsewhere in ("EAT.config", "EAT.demo_clips"):  # tests/test_install.py looks into the wheel
        data.pop(elsewhere)
    assert all(list((ROOT / package.replace(".", "/")).glob(file)) for package, files in data.items() for file in files)
    assert "py.typed" in data["EAT"]


def test_the_workflow_runs_what_users_run() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    assert job["steps"][-1] == {"run": "bash .ci/run"} and (ROOT / ".ci" / "run").is_file()
    assert "bash scripts/test.sh" in (ROOT / ".ci" / "run").read_text()


def test_hooks_are_the_checks_of_the_test_script() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"] for repository in repositories for hook in repository["hooks"]]
    assert [repository["repo"] for repository in repositories] == ["local"] and len(entries) == 3
    script = (ROOT / "scripts" / "test.sh").read_text().splitlines()
    for entry in entries:
        assert any(line in (entry, f"{entry} .") for line in script), entry


@pytest.mark.parametrize("name", ["bug.md", "question.md"])
def test_issue_templates_have_what_the_form_needs(name: str) -> None:
    _, front, body = (ROOT / ".github" / "ISSUE_TEMPLATE" / name).read_text().split("---", 2)
    assert set(yaml.safe_load(front)) >= {"name", "about"} and "**" in body
    for link in re.findall(r"\(\.\./blob/main/([\w./-]+)\)", body):
        assert (ROOT / link).is_file(), link


def test_every_page_is_reached_from_the_readme_or_the_guides() -> None:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    pages = [page for page in listed if not page.startswith(".github") and page != "README.md"]
    text = "".join((ROOT / page).read_text() for page in listed)
    assert len(pages) > 10
    for page in pages:
        assert page.rpartition("/")[2] in text, page


def test_what_is_installed_is_found_from_a_clone_s_parent_and_holds_the_recipes(tmp_path: Path) -> None:
    clone = tmp_path / "EAT"  # as git names it: seen from its parent, a folder of the package's name
    clone.mkdir()
    for name in ("EAT", "config"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, clone)
    build = "from setuptools import build_meta as b; print(b.build_editable('editable')); print(b.build_wheel('whole'))"
    subprocess.run([sys.executable, "-c", build], cwd=clone, check=True, capture_output=True)
    for folder in ("editable", "whole"):
        (wheel,) = (clone / folder).glob("*.whl")
        zipfile.ZipFile(wheel).extractall(tmp_path / folder)
        found = (
            "import sys, site; sys.path.insert(0, ''); site.addsitedir(sys.argv[1]); import EAT; print(EAT.__file__)"
        )
        command = [sys.executable, "-I", "-S", "-c", found, str(tmp_path / folder)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        where = clone if folder == "editable" else tmp_path / folder
        assert done.stdout.strip() == str(where / "EAT" / "__init__.py")
    installed = tmp_path / "whole" / "EAT" / "config"
    files = {path.relative_to(ROOT / "config") for path in (ROOT / "config").rglob("*.yaml")}
    assert {path.relative_to(installed) for path in installed.rglob("*.yaml")} == files
