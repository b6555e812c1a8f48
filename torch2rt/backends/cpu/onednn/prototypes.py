"""The C signatures used, in one line each.

Codes: `p` a pointer (handle, array or out parameter), `i` int or enum, `u` unsigned,
`l` dnnl_dim_t (64 bits), `z` size_t, `f` float. Every function returns a dnnl_status_t (int)
unless RESULTS says otherwise.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

CODES: Final[dict[str, type[ctypes._SimpleCData[Any]]]] = {
    "p": ctypes.c_void_p,
    "i": ctypes.c_int,
    "u": ctypes.c_uint,
    "l": ctypes.c_int64,
    "z": ctypes.c_size_t,
    "f": ctypes.c_float,
}

RESULTS: Final = {
    "dnnl_memory_desc_equal": "i",
    "dnnl_memory_desc_get_size": "z",
    "dnnl_primitive_desc_query_md": "p",
    "dnnl_primitive_desc_query_s32": "i",
    "dnnl_get_effective_cpu_isa": "i",
    "dnnl_version": "p",
}

PROTOTYPES: Final = {
    "dnnl_version": "",
    "dnnl_set_max_cpu_isa": "i",
    "dnnl_get_effective_cpu_isa": "",
    "dnnl_set_cpu_isa_hints": "i",
    "dnnl_set_primitive_cache_capacity": "i",
    "dnnl_engine_create": "piz",
    "dnnl_stream_create": "ppu",
    "dnnl_stream_destroy": "p",
    "dnnl_memory_desc_destroy": "p",
    "dnnl_memory_desc_clone": "pp",
    "dnnl_memory_desc_create_with_strides": "pipip",
    "dnnl_memory_desc_create_with_tag": "pipii",
    "dnnl_memory_desc_create_submemory": "pppp",
    "dnnl_memory_desc_reshape": "ppip",
    "dnnl_memory_desc_permute_axes": "ppp",
    "dnnl_memory_desc_query": "pip",
    "dnnl_memory_desc_equal": "pp",
    "dnnl_memory_desc_get_size": "p",
    "dnnl_memory_create": "pppp",
    "dnnl_memory_destroy": "p",
    "dnnl_memory_set_data_handle": "pp",
    "dnnl_memory_get_data_handle": "pp",
    "dnnl_primitive_attr_create": "p",
    "dnnl_primitive_attr_destroy": "p",
    "dnnl_primitive_attr_set_scratchpad_mode": "pi",
    "dnnl_primitive_attr_set_fpmath_mode": "pi",
    "dnnl_primitive_attr_set_scales_mask": "pii",
    "dnnl_primitive_attr_set_zero_points_mask": "pii",
    "dnnl_primitive_attr_set_post_ops": "pp",
    "dnnl_post_ops_create": "p",
    "dnnl_post_ops_destroy": "p",
    "dnnl_post_ops_append_sum": "pfii",
    "dnnl_post_ops_append_eltwise": "piff",
    "dnnl_post_ops_append_binary": "pip",
    "dnnl_post_ops_append_prelu": "pi",
    "dnnl_post_ops_append_dw": "piiilll",
    "dnnl_primitive_desc_next_impl": "p",
    "dnnl_primitive_desc_clone": "pp",
    "dnnl_primitive_desc_destroy": "p",
    "dnnl_primitive_desc_query": "piip",
    "dnnl_primitive_desc_query_md": "pii",
    "dnnl_primitive_desc_query_s32": "pii",
    "dnnl_primitive_create": "pp",
    "dnnl_primitive_destroy": "p",
    "dnnl_reorder_primitive_desc_create": "pppppp",
    "dnnl_concat_primitive_desc_create": "pppiipp",
    "dnnl_sum_primitive_desc_create": "pppippp",
    "dnnl_binary_primitive_desc_create": "ppipppp",
    "dnnl_convolution_forward_primitive_desc_create": "ppii" + "p" * 9,
    "dnnl_deconvolution_forward_primitive_desc_create": "ppii" + "p" * 9,
    "dnnl_eltwise_forward_primitive_desc_create": "ppiippffp",
    "dnnl_softmax_forward_primitive_desc_create": "ppiippip",
    "dnnl_pooling_forward_primitive_desc_create": "ppii" + "p" * 8,
    "dnnl_prelu_forward_primitive_desc_create": "ppipppp",
    "dnnl_lrn_forward_primitive_desc_create": "ppiipplfffp",
    "dnnl_batch_normalization_forward_primitive_desc_create": "ppippfup",
    "dnnl_layer_normalization_forward_primitive_desc_create": "ppipppfup",
    "dnnl_inner_product_forward_primitive_desc_create": "ppippppp",
    "dnnl_matmul_primitive_desc_create": "ppppppp",
    "dnnl_resampling_forward_primitive_desc_create": "ppiipppp",
    "dnnl_reduction_primitive_desc_create": "ppippffp",
    "dnnl_shuffle_forward_primitive_desc_create": "ppippilp",
    "dnnl_vanilla_rnn_forward_primitive_desc_create": "ppiiipppppppuffp",
    "dnnl_lstm_forward_primitive_desc_create": "ppii" + "p" * 11 + "up",
    "dnnl_gru_forward_primitive_desc_create": "ppii" + "p" * 7 + "up",
    "dnnl_lbr_gru_forward_primitive_desc_create": "ppii" + "p" * 7 + "up",
}

OPTIONAL: Final = {
    "dnnl_group_normalization_forward_primitive_desc_create": "ppipplfup",
}
