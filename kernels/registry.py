"""The one list of codecs. Every other place finds a codec by its name.

To add a codec: a module of its name in `kernels/layout`, `kernels/reference` and `compress/codecs` (and in the
other backends), and one line here.
"""

from __future__ import annotations

from collections.abc import Mapping

from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.fp8 import Fp8Params
from tilepress.kernels.layout.int import IntParams
from tilepress.kernels.layout.lossless import LosslessParams
from tilepress.kernels.layout.mxfp4 import Mxfp4Params
from tilepress.kernels.layout.nf4 import Nf4Params
from tilepress.kernels.layout.none import NoneParams
from tilepress.kernels.layout.nvfp4 import Nvfp4Params
from tilepress.kernels.layout.sz import SzParams
from tilepress.kernels.layout.trellis import TrellisParams
from tilepress.kernels.layout.zfp import ZfpParams
from tilepress.kernels.params import Params

CODECS: Mapping[str, type[Params]] = {
    params.codec: params
    for params in (
        NoneParams,
        LosslessParams,
        ZfpParams,
        SzParams,
        IntParams,
        Nf4Params,
        Fp8Params,
        Mxfp4Params,
        Nvfp4Params,
        TrellisParams,
    )
}


def params_type(codec: str) -> type[Params]:
    """The parameters of the codec of this name.

    Raises:
        CodecError: no such codec.
    """
    try:
        return CODECS[codec]
    except KeyError:
        raise CodecError(f"no codec is called {codec!r}; there are {', '.join(CODECS)}") from None


def parse_spec(spec: str) -> Params:
    """`"int:bits=4,group=64"` -> parameters.

    Raises:
        CodecError: no such codec, or options that it doesn't take.
    """
    codec, _, options = spec.strip().partition(":")
    return params_type(codec.strip()).parse(options)
