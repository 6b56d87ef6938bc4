"""Packaging of pgrpo. All metadata comes from settings.ini, which nbdev reads too."""
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]
notebook, trl, sinks, vllm, ray = (
    settings[f"{extra}_requirements"].split() for extra in ("notebook", "trl", "sinks", "vllm", "ray")
)

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=settings["keywords"],
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    license="MIT",
    python_requires=f">={settings['min_python']}",
    install_requires=settings["requirements"].split(),
    extras_require={
        "notebook": notebook, "trl": trl, "sinks": sinks, "vllm": vllm, "ray": ray,
        "dev": [*notebook, *trl, *sinks, *settings["dev_requirements"].split()],
    },
    entry_points={"console_scripts": settings["console_scripts"].split()},
    # The folder data/ is installed as the package pgrpo_data, so that a plain install has the embedded policy.
    packages=[*find_packages(include=["pgrpo", "pgrpo.*"]), "pgrpo_data"],
    package_dir={"pgrpo": "pgrpo", "pgrpo_data": "data"},
    package_data={"pgrpo_data": ["**/*"], "pgrpo.widgets": ["static/*"]},  # static/: what a page reads
)
