"""Reads and writes files of weights, with a module for each format.

| module | reads and writes |
|---|---|
| `torch_file` | `.pth` and `.pt` of torch, without torch and without executing the pickles in them |
| `safetensors_file` | `.safetensors`, one file or shards with an index |
| `keras_file` | `.h5` as Keras publishes its applications, in a separate process |
| `hub` | folders from the Hugging Face hub, and the checksums in torchvision's file names |
| `config` | timm's `config.json` |

Every reader returns a read-only mapping from the names in the file to `tensor.Tensor`. Shape and dtype are known at
once; the values are read each time `numpy.asarray` is called. So a checkpoint is converted tensor by tensor and is
never in memory twice.

Files are untrusted. Every fault of a file raises `paths.FileError`, a ValueError that names the file, when it is opened
or when a tensor is read. Nothing in a file is executed, no file that it names is opened except shards in the same
folder, and only regular files are opened. These limits bound the cost:

| part | limit |
|---|---|
| a tensor that is read | its size and 2 MiB; twice its size if its storage is compressed and its axes are permuted |
| header of safetensors, index, `config.json` | 4 MiB of JSON, which may take 150 MiB of memory |
| structure of a file of torch | 16 MiB, 262,144 operations and 200 more for each storage; 4 MiB of names |
| compressed storage of torch | no larger than its tensors; at most 16 tensors |
| `.h5` | 10 seconds and one more for each 10 MB; 512 MiB and 16 times its size of memory, in a separate process |
"""
