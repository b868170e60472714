"""Ray Serve: a service that answers an image with its mask. Runs offline, on a laptop.

    python examples/08_serve.py [MODEL]
    curl --data-binary @photo.jpg http://127.0.0.1:8000/ --output mask.png

It needs pip install "ray_segformer[serve]". The answer is a PNG of class ids; to a file that is no image, it is the
status 400 and a sentence. Requests that arrive together are predicted together. MODEL is a directory or a name on the
Hub; without it, the packaged model answers, which knows synthetic scenes only. The variable PORT names another port.
"""

import asyncio
import os
import sys

import numpy as np
from ray import serve
from starlette.responses import Response

from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer.images import encode

MAX_BYTES = 50 * 2**20  # of a request
MAX_PIXELS = 25_000_000  # of an image, which may have many more than its file has bytes
BATCH_SIZE = 8


# A replica works on one batch while it receives the next. On GPUs, add ray_actor_options={"num_gpus": 1}.
@serve.deployment(max_ongoing_requests=2 * BATCH_SIZE)
class Segmenter:
    def __init__(self, checkpoint):
        # With on_error="keep", a bad image has an error, and the others of its batch have their masks.
        self.predictor = SegformerPredictor(checkpoint, on_error="keep", max_pixels=MAX_PIXELS)

    @serve.batch(max_batch_size=BATCH_SIZE, batch_wait_timeout_s=0.02)
    async def segment(self, images):
        """Return the mask or the error of each image, and how many images were predicted together."""
        result = await asyncio.to_thread(self.predictor.predict, {"image": np.array(images, object)})
        return [(*row, len(images)) for row in zip(result["segmentation"], result["error"], strict=True)]

    async def __call__(self, request):
        if request.method != "POST":
            return Response("send an image by POST\n", 405, headers={"Allow": "POST"})
        image = bytearray()
        async for part in request.stream():
            image += part
            if len(image) > MAX_BYTES:
                return Response(f"too large: more than {MAX_BYTES} bytes\n", 413)
        mask, error, together = await self.segment(bytes(image))
        if error:
            return Response(error.partition(": ")[2] + "\n", 400)  # without the row in the batch
        return Response(encode(mask, "PNG"), media_type="image/png", headers={"batch-size": str(together)})


if __name__ == "__main__":
    checkpoint = SegformerCheckpoint.from_pretrained(sys.argv[1]) if sys.argv[1:] else SegformerCheckpoint.demo()
    serve.start(http_options={"port": int(os.environ.get("PORT", "8000"))})
    try:
        serve.run(Segmenter.bind(checkpoint), blocking=True)  # until Ctrl-C
    except KeyboardInterrupt:
        serve.shutdown()
