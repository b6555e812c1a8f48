"""cuBLASLt on host memory: column-major products as the library defines them, in float64."""

import ctypes

import torch

TYPES = {0: torch.float32, 2: torch.float16, 14: torch.bfloat16, 28: torch.float8_e4m3fn}
ALGORITHMS = 3


class FakeCublasLt:
    """The functions that the binding calls. Descriptors are counted, so that leaks show."""

    def __init__(self):
        self.objects = {}
        self.next_id = 1
        self.calls = []

    def _make(self, target, **facts):
        target._obj.value = self.next_id
        self.objects[self.next_id] = facts
        self.next_id += 1
        return 0

    def _set(self, handle, attribute, value, size):
        found = value._obj
        assert ctypes.sizeof(found) == size
        self.objects[handle.value][attribute] = found.value
        return 0

    def _free(self, handle):
        del self.objects[handle.value]
        return 0

    cublasLtMatmulDescSetAttribute = cublasLtMatrixLayoutSetAttribute = _set
    cublasLtMatmulPreferenceSetAttribute = _set
    cublasLtMatmulDescDestroy = cublasLtMatrixLayoutDestroy = _free
    cublasLtMatmulPreferenceDestroy = _free

    def cublasLtGetVersion(self):
        return 130200

    def cublasLtMatmulDescCreate(self, target, mode, scale_type):
        assert scale_type == 0
        return self._make(target, mode=mode)

    def cublasLtMatrixLayoutCreate(self, target, dtype, rows, columns, leading):
        assert leading >= rows
        return self._make(target, dtype=dtype, rows=rows, columns=columns, leading=leading)

    def cublasLtMatmulPreferenceCreate(self, target):
        return self._make(target)

    def cublasLtMatmulAlgoGetHeuristic(
        self, handle, desc, a, b, c, d, preference, asked, results, count
    ):
        assert self.objects[preference.value][1] == 32 << 20
        assert [self.objects[preference.value][key] for key in (5, 6, 7, 8)] == [16] * 4
        for index in range(ALGORITHMS):
            results[index].algorithm[0] = 100 + index
            results[index].workspace_bytes = 4096 * index
        results[ALGORITHMS - 1].state = 15  # not supported after all
        count._obj.value = ALGORITHMS
        return 0

    def cublasLtMatmul(
        self, handle, desc, alpha, a, of_a, b, of_b, beta, c, of_c, d, of_d, algorithm,
        workspace, workspace_bytes, stream,
    ):
        facts = self.objects[desc.value]
        self.calls.append((facts, algorithm.raw[0], workspace_bytes))
        if workspace_bytes:
            assert workspace % 256 == 0
            ctypes.memset(workspace, 0x11, workspace_bytes)
        left = self._matrix(a, of_a).mT if facts[3] else self._matrix(a, of_a)
        right = self._matrix(b, of_b).mT if facts[4] else self._matrix(b, of_b)
        result = alpha._obj.value * (left.double() @ right.double())
        target = self._matrix(d, of_d)
        if self.objects[of_a.value]["dtype"] == 28:
            result = self._scaled(facts, result, target.dtype)
        if beta._obj.value:
            result = result + beta._obj.value * self._matrix(c, of_c).double()
        if facts[7] & 4:
            bias = _tensor(facts[8], TYPES[self.objects[of_d.value]["dtype"]], target.shape[-2])
            result = result + bias.double()[:, None]
        if facts[7] & 32:
            result = torch.nn.functional.gelu(result, approximate="tanh")
        target.copy_(result)
        return 0

    def _scaled(self, facts, result, dtype):
        """Of float8: rows by rows alone, no float8 out, both operands scaled or none."""
        assert (facts[3], facts[4]) == (1, 0)
        assert dtype != torch.float8_e4m3fn
        assert facts[25] in (0, 1)
        if facts.get(31) is None:
            assert not {17, 18, 32} & facts.keys()
            return result
        assert (facts[31], facts[32]) == (3, 3)
        rows, columns = result.shape[-2:]
        of_rows = _tensor(facts[17], torch.float32, rows)
        of_columns = _tensor(facts[18], torch.float32, columns)
        return result * of_rows.double()[:, None] * of_columns.double()

    def _matrix(self, address, layout):
        """[batch, rows, columns], column-major."""
        facts = self.objects[layout.value]
        batch, stride = facts.get(5, 1), facts.get(6, 0)
        rows, columns, leading = facts["rows"], facts["columns"], facts["leading"]
        span = (batch - 1) * stride + (columns - 1) * leading + rows
        flat = _tensor(address, TYPES[facts["dtype"]], span)
        return flat.as_strided((batch, rows, columns), (stride, 1, leading))


def _tensor(address, dtype, count):
    raw = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return torch.frombuffer(raw, dtype=dtype)
