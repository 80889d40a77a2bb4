"""What is sent, one file a codec. Pure torch, no communication."""

from hpc_localsgd.compressors.base import Compression, Compressor, MatrixCompression, compress
from hpc_localsgd.compressors.bf16 import BF16
from hpc_localsgd.compressors.chunked_top_k import ChunkedTopK
from hpc_localsgd.compressors.e3m0 import E3M0
from hpc_localsgd.compressors.fp16 import FP16
from hpc_localsgd.compressors.int4 import Int4
from hpc_localsgd.compressors.int8 import Int8
from hpc_localsgd.compressors.power_sgd import PowerSGD
from hpc_localsgd.compressors.sign import Sign
from hpc_localsgd.compressors.top_k import TopK

__all__ = [
    "BF16",
    "E3M0",
    "FP16",
    "ChunkedTopK",
    "Compression",
    "Compressor",
    "Int4",
    "Int8",
    "MatrixCompression",
    "PowerSGD",
    "Sign",
    "TopK",
    "compress",
]
