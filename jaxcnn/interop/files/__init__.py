"""Files of weights: a module for each format, and what lies around them.

| module | what it reads and writes |
|---|---|
| `torch_file` | `.pth` and `.pt` of torch 1.6 and later, without torch and without running what is in them |
| `safetensors_file` | `.safetensors`, one file or shards with an index |
| `keras_file` | `.h5` as Keras publishes its applications |
| `hub` | folders from the Hugging Face hub, and the checksums in torchvision's file names |
| `config` | timm's `config.json` |

Every reader returns a read-only mapping from the file's own names to `tensor.Tensor`: shape and dtype are known at
once, the values are read when `numpy.asarray` asks for them, each time anew. So a checkpoint is converted tensor by
tensor and never held twice.
"""
