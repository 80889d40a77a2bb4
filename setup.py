"""The package; exact versions are in constraints.txt, tool settings in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
README = HERE / "README.md"

# Enough to read trajectories, plan runs, and report and compare them; no torch, no MPI.
REQUIRES = [
    "h5py>=3.8",
    "jinja2>=3.1",
    "jsonargparse[signatures]>=4.53",
    "matplotlib>=3.8",
    "networkx>=3.2",
    "numpy>=1.26",
    "pyyaml>=6.0",
    "rich>=13.0",
    "scipy>=1.11",
]

EXTRAS = {
    "train": ["safetensors>=0.4", "scikit-learn>=1.4", "torch>=2.4"],
    # Horovod itself is not on this list: `python -m hpc_localsgd.environment.horovod` compiles it
    # against the torch and the MPI that are there. These are what its Python code and its build
    # need.
    "horovod": ["cffi>=1.4", "cloudpickle", "packaging", "psutil", "setuptools", "wheel"],
    "mpi": ["mpi4py>=4.0"],
    "compression": ["hdf5plugin>=5.0"],
    "xarray": ["xarray>=2024.1"],
    "tensorboard": ["tensorboard>=2.16"],
    "wandb": ["wandb>=0.17"],
    "mlflow": ["mlflow-skinny>=2.14"],
    "vision": ["torchvision", "pillow"],
    "dev": [
        "curvlinops-for-pytorch>=3.0",  # an independent reference for tests of curvature
        "hypothesis",
        "mypy",
        "pre-commit",
        "pytest>=8.0",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "ruff",
    ],
}

setup(
    name="hpc_localsgd",
    version="0.2.0",
    description="Local SGD and its family for PyTorch, on Horovod, MPI and torch.distributed",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["hpc_localsgd", "hpc_localsgd.*"]),
    package_data={
        "hpc_localsgd": [
            "py.typed",
            "tasks/alice.txt",
            "analysis/references/papers.bib",
            "analysis/report/templates/*",
        ],
    },
    python_requires=">=3.10",
    keywords="local-sgd diloco distributed-training horovod mpi hpc decentralized-sgd sharpness",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Natural Language :: English",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["hpc-localsgd = hpc_localsgd.__main__:run"]},
)
