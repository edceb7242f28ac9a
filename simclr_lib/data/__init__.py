"""Images: data sets by name, how they lie on disk, the store of decoded images, the embedded set."""
