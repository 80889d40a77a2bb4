"""ImageNet, or any tree of images: from class folders, or packed into one HDF5 file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import TaskContext, TaskSpec
from hpc_localsgd.tasks.classification import Classification
from hpc_localsgd.tasks.cores import share_of_rank
from hpc_localsgd.tasks.synthetic_images import like
from hpc_localsgd.tasks.torchvision_import import require_torchvision
from hpc_localsgd.tasks.vision.decoding import Decoder
from hpc_localsgd.tasks.vision.hdf5_reader import Pack
from hpc_localsgd.tasks.vision.image_store import Folder, ImageStore, check_classes
from hpc_localsgd.tasks.vision.image_task import ImageTask
from hpc_localsgd.tasks.vision.streamed import Streamed

MOST_LOADERS = 8  # of a rank, unless given


@dataclass(frozen=True)
class imagenet(ImageTask):
    """Images in class folders (Deng et al. 2009; any tree of that form), or the packed file.

    Attributes:
        model: See `ImageTask`.
        data: A folder with train/CLASS/*.jpg and val/CLASS/*.jpg, or the file that
            `python -m hpc_localsgd pack` made of one.
        classes: How many there must be; "null" for as many as there are.
        size: Height and width of the images the model sees.
        rand_augment: Strength of RandAugment with two operations; 0 for none.
        loaders: Processes of each rank that read and decode; 0 for the rank itself. Default: its
            share of the host's cores, 8 at most. The batches do not depend on it.
        skip_corrupt: Leave out images that cannot be decoded and name them, instead of stopping.
            They are counted where a training batch should have had them, not while measuring.
    """

    model: str = "resnet50"
    data: str = "data/imagenet"
    classes: int | None = 1000
    size: int = 224
    rand_augment: int = 0
    loaders: int | None = None
    skip_corrupt: bool = False

    def build(self, context: TaskContext) -> Classification:
        """List the images, and make the task of this process's workers.

        Raises:
            ConfigurationError: Images or class folders are missing, or a packed file is damaged.
        """
        if self.loaders is not None and self.loaders < 0:
            raise ConfigurationError(f"--task.loaders {self.loaders}: give 0 or more")
        if self.size < 8 or not 0 <= self.rand_augment <= 30:
            raise ConfigurationError(
                f"--task.size {self.size} must be at least 8, and --task.rand-augment "
                f"{self.rand_augment} from 0 to 30"
            )
        require_torchvision()  # its transforms, in every loader process
        path = Path(self.data).expanduser()
        store: ImageStore = Pack(path) if path.suffix in (".h5", ".hdf5") else Folder(path)
        check_classes(store.classes, self.classes, path)
        decoder = Decoder(store, self.size, self.augment, self.rand_augment, self.skip_corrupt)
        processes = _cores() if self.loaders is None else self.loaders
        return self.classification(Streamed(decoder, processes, context), self.size, context)

    def undisturbed(self) -> TaskSpec:
        """Return the undisturbed task, see `TaskSpec.undisturbed`."""
        return replace(self, augment=False, label_noise=0.0, mixup=0.0, rand_augment=0)

    def published(self) -> TaskSpec:
        """Return synthetic images, as many and as large as ImageNet-1k's."""
        return like(self, self.size, classes=self.classes or 1000, samples=1_281_167)


def _cores() -> int:
    """Return this rank's cores, a few at most; not torch's threads, which torchrun sets to 1."""
    return min(MOST_LOADERS, share_of_rank().cores)
