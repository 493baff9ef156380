"""Parts and files: the tilepress container, and the checkpoints that go in and come out."""
