"""Everything that pyproject.toml calls dynamic comes from settings.ini, where it stands once."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser()
config.read("settings.ini", encoding="utf-8")
ini = config["DEFAULT"]

setup(
    version=ini["version"],
    description=ini["description"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=ini["author"],
    license="Apache-2.0",
    keywords=ini["keywords"].split(),
    classifiers=["Intended Audience :: " + ini["audience"], "Programming Language :: Python :: 3"],
    url=ini["git_url"],
    project_urls={"Documentation": ini["doc_host"] + ini["doc_baseurl"]},
    packages=find_packages(include=[ini["lib_path"], ini["lib_path"] + ".*"]),
    package_data={ini["lib_path"]: ["py.typed", "results/*.csv"]},
    install_requires=ini["requirements"].split(),
    extras_require={name: ini[name + "_requirements"].split() for name in ("dev", "bench", "cluster")},
    entry_points={"console_scripts": ini["console_scripts"].split()},
)
