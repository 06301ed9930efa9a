"""Files of weights: a module for each format, and what lies around them.

| module | what it reads and writes |
|---|---|
| `torch_file` | `.pth` and `.pt` of torch, without torch and without running what is in them |
| `safetensors_file` | `.safetensors`, one file or shards with an index |
| `keras_file` | `.h5` as Keras publishes its applications, in a process of its own |
| `hub` | folders from the Hugging Face hub, and the checksums in torchvision's file names |
| `config` | timm's `config.json` |

Every reader of weights returns a read-only mapping from the file's own names to `tensor.Tensor`: shape and dtype are
known at once, the values are read when `numpy.asarray` asks for them, each time anew. So a checkpoint is converted
tensor by tensor and never held twice.

A file can come from anyone. Whatever is wrong with one is a `paths.FileError`, a ValueError whose text names the file,
when it is opened or when a tensor is read. Nothing in a file runs, no other file is opened because of it, and what is
no regular file is not opened. The cost is bounded, by these limits:

| what | limit |
|---|---|
| a tensor that is read | its size and 2 MiB; twice its size where its storage is packed and its axes are permuted |
| header of safetensors, index, `config.json` | 4 MiB, which may take 150 MiB and a second |
| structure of a file of torch | 16 MiB, of 262,144 operations and 200 more for each storage; 4 MiB of names |
| packed storage of torch | no larger than the tensors in it, of which there are at most 16 |
| `.h5` | 10 seconds and one more for each 10 MB; 512 MiB and 16 times its size of memory, in a process of its own |
"""
