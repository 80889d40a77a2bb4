"""Parts of the image tasks: models and norms, augmentation, and where images come from."""
