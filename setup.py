"""Packages of the wheel: ``torch2rt`` with ``kernels/`` and ``plugins/`` mapped into it.

Everything else is in pyproject.toml; only the list of packages needs code, because a static list
would need an edit per folder and setuptools' finder cannot rename what it finds.
"""

from setuptools import find_packages, setup

MAPPED = ("kernels", "plugins")

packages = find_packages(include=["torch2rt", "torch2rt.*"])
for folder in MAPPED:
    packages += [f"torch2rt.{name}" for name in find_packages(include=[folder, f"{folder}.*"])]

setup(packages=packages, package_dir={f"torch2rt.{folder}": folder for folder in MAPPED})
