"""The YOLOX of libreyolo: the names of the authors' files, raw outputs, losses."""

import pytest
from torchvision_peer import nn, torch

network = pytest.importorskip("libreyolo.models.yolox.nn")

STRIDES = (8, 16, 32)


class RawOutputs(nn.Module):
    """The logits and the numbers of the boxes, for images of one size, before they are decoded."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        head = self.model.head
        head.use_l1 = True
        outputs, *_, numbers = head.forward_train_maps(self.model.backbone(x))
        return {"boxes": torch.cat(numbers, 1), "objectness": outputs[..., 4], "classes": outputs[..., 5:]}


@pytest.mark.filterwarnings("ignore")
def losses(outputs, map_sizes, labels, *, use_l1):
    """Computes the parts of the loss.

    Args:
      outputs: "boxes", "objectness" and "classes" of a batch, tensors with the cells of all levels as the second axis.
      map_sizes: (height, width) of the levels.
      labels: class, centre, width and height of the objects, with rows of zeros after them.
      use_l1: whether the absolute differences count.

    Returns:
      The parts by name.
    """
    num_classes = outputs["classes"].shape[2]
    head = network.YOLOXHead(num_classes, width=1 / 64)
    head.use_l1 = use_l1
    rows = torch.cat([outputs["boxes"], outputs["objectness"][..., None], outputs["classes"]], 2)
    decoded, shifts, strides, start = [], ([], []), [], 0
    for level, (height, width) in enumerate(map_sizes):
        stop = start + height * width
        maps = rows[:, start:stop].transpose(1, 2).reshape(len(rows), -1, height, width)
        one, grid = head.get_output_and_grid(maps.clone(), level, STRIDES[level], None)
        decoded.append(one)
        for axis in (0, 1):
            shifts[axis].append(grid[:, :, axis])
        strides.append(torch.full((1, height * width), STRIDES[level], dtype=rows.dtype))
        start = stop
    # Given as one level: they are joined there.
    return head.get_losses(None, *shifts, strides, labels, torch.cat(decoded, 1), [outputs["boxes"]], dtype=rows.dtype)
