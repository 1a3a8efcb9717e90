"""PyTorch's scaled_dot_product_attention as a contestant: asked in lines of JSON on stdin, answers in lines on stdout.

cuDNN's back end for half types, the memory-efficient one for float32. Inputs come as files of the three streams of
numbers that every contestant draws from (bfloat16, exact in every dtype asked for); a tensor is its stream from the
start, begun again at its end. Started by src/peers/torch.node.ts, which has the questions' types.
"""

import base64
import ctypes
import json
import signal
import sys
import time
import warnings

# Ctrl-C goes to the whole group: whoever asks decides when this process ends, by closing stdin.
signal.signal(signal.SIGINT, signal.SIG_IGN)

try:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention
except ImportError as missing:
    torch = None
    MISSING = f"PyTorch is not installed ({missing}): pip install torch, or name another Python in PYTHON"

GAUGE_SECONDS = 0.8
MATMUL_SIZE = 8192
COPY_BYTES = 2**30


class Torch:
    """The library on one device; a processor plays the GPU where software will do."""

    def __init__(self):
        self.device = None
        self.streams = {}
        self.placed = {}

    def open(self, software):
        if torch is None:
            raise RuntimeError(MISSING)
        if torch.cuda.is_available():
            self.device = torch.device("cuda")
            if torch.backends.cudnn.version() is None:
                raise RuntimeError(f"PyTorch {torch.__version__} comes without cuDNN")
        elif software:
            self.device = torch.device("cpu")
            torch.set_num_threads(1)
        else:
            raise RuntimeError(f"PyTorch {torch.__version__} sees no GPU: it needs CUDA, and a GPU that it knows")
        return f"{torch.__version__}, {self.backends()}"

    def load(self, streams, elements):
        """The numbers that tensors are made of: paths by the name of the stream."""
        for name, path in streams.items():
            read = torch.from_file(path, size=elements, dtype=torch.bfloat16)
            self.streams[name] = read.to(self.device, copy=True)

    def backends(self):
        if self.device.type == "cpu":
            return "on the processor"
        version = torch.backends.cudnn.version()
        numbers = f"{version // 10000}.{version // 100 % 100}.{version % 100}"
        return f"scaled_dot_product_attention by cuDNN {numbers}, for float32 by its memory-efficient back end"

    def place(self, handle, dtype, q, kv, causal, sets):
        """q: [B, H, Sq, D]; kv: [B, Hkv, Skv, D]; so many copies of keys and values, read in turn."""
        if causal and q[2] != kv[2]:
            raise RuntimeError("PyTorch's causal begins at the first key, ours ends at the last")
        if self.device.type == "cpu":
            backend, name = SDPBackend.MATH, "math"
        elif dtype == "float32":
            backend, name = SDPBackend.EFFICIENT_ATTENTION, "memory-efficient"
        else:
            backend, name = SDPBackend.CUDNN_ATTENTION, "cuDNN"
        k, v = self.tensor("k", kv, dtype), self.tensor("v", kv, dtype)
        turns = [(k, v)] + [(k.clone(), v.clone()) for _ in range(sets - 1)]
        query = self.tensor("q", q, dtype)
        options = {"is_causal": causal, "enable_gqa": q[1] != kv[1]}

        def run(calls):
            with torch.inference_mode(), sdpa_kernel([backend]):
                for n in range(calls):
                    out = scaled_dot_product_attention(query, *turns[n % sets], **options)
            return out

        self.placed[handle] = run
        return name

    def tensor(self, name, shape, dtype):
        stream, elements = self.streams[name], torch.Size(shape).numel()
        whole = stream if elements <= stream.numel() else stream.repeat(-(-elements // stream.numel()))
        return whole[:elements].view(shape).to(getattr(torch, dtype), copy=True)

    def first(self, handle, heads, rows):
        """One call; the rows that are asked for, of some of the B H heads, as float32."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                start = time.perf_counter()
                out = self.placed[handle](1)
                self.sync()
            except RuntimeError as error:
                # The error says that there is no kernel, warnings before it why.
                reasons = [str(one.message).split("\n")[0].split(" (Triggered")[0] for one in said]
                raise RuntimeError(" ".join([str(error).split("\n")[0], *reasons])) from error
        ms = 1000 * (time.perf_counter() - start)
        some = out.flatten(0, 1)[heads][:, rows].float().cpu().contiguous()
        return {"ms": ms, "out": base64.b64encode(ctypes.string_at(some.data_ptr(), 4 * some.numel())).decode()}

    def chain(self, handle, calls):
        """Milliseconds from the first of some calls, enqueued one by one, to the end of the last."""
        self.sync()
        start = time.perf_counter()
        self.placed[handle](calls)
        self.sync()
        return 1000 * (time.perf_counter() - start)

    def free(self, handle):
        del self.placed[handle]
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def matmul(self):
        """GFLOP/s of a product of two bfloat16 matrices."""
        size = MATMUL_SIZE if self.device.type == "cuda" else 256
        a, b = (self.tensor(name, (size, size), "bfloat16") for name in "qk")
        return 2 * size**3 / self.least_seconds(lambda: a @ b) / 1e9

    def copy(self):
        """Bytes a second of copying in device memory, those read and those written."""
        size = COPY_BYTES if self.device.type == "cuda" else 2**20
        source = torch.ones(size, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * size / self.least_seconds(lambda: target.copy_(source))

    def least_seconds(self, call, calls=10):
        """Of a call, in chains of some, once the device is warm."""
        least, until = float("inf"), time.perf_counter() + GAUGE_SECONDS
        while time.perf_counter() < until:
            self.sync()
            start = time.perf_counter()
            for _ in range(calls):
                call()
            self.sync()
            least = min(least, (time.perf_counter() - start) / calls)
        return least

    def sync(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def main():
    library = Torch()
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = {"value": getattr(library, question["name"])(**question["argument"])}
        except Exception as error:  # whatever it is, it is the answer
            answer = {"error": f"{error}".split("\n")[0] or type(error).__name__}
        print(json.dumps(answer), flush=True)


main()
