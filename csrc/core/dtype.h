/* SPDX-License-Identifier: Apache-2.0
 *
 * Element types: the one table.  Sources: c10/core/ScalarType.h for the names
 * of scalar types, torch/storage.py for which of them have a typed storage
 * class of their own.
 */
#ifndef PSD_DTYPE_H
#define PSD_DTYPE_H

#include "base.h"

/*
 * id, torch's name, scalar type name, bytes an element, bytes that swap
 * together, group, typed
 *
 * A storage class is called <scalar type name>Storage.  Types that are not
 * `typed` are saved by torch.save in an UntypedStorage and named by
 * _rebuild_tensor_v3.
 *
 * Groups: f floating, c complex, i signed, u unsigned, b bool, q quantized,
 * x bits without arithmetic.
 */
#define PSD_DTYPES(X)                                                          \
    X(UINT8, "uint8", "Byte", 1, 1, 'u', true)                                 \
    X(INT8, "int8", "Char", 1, 1, 'i', true)                                   \
    X(INT16, "int16", "Short", 2, 2, 'i', true)                                \
    X(INT32, "int32", "Int", 4, 4, 'i', true)                                  \
    X(INT64, "int64", "Long", 8, 8, 'i', true)                                 \
    X(FLOAT16, "float16", "Half", 2, 2, 'f', true)                             \
    X(FLOAT32, "float32", "Float", 4, 4, 'f', true)                            \
    X(FLOAT64, "float64", "Double", 8, 8, 'f', true)                           \
    X(COMPLEX32, "complex32", "ComplexHalf", 4, 2, 'c', false)                 \
    X(COMPLEX64, "complex64", "ComplexFloat", 8, 4, 'c', true)                 \
    X(COMPLEX128, "complex128", "ComplexDouble", 16, 8, 'c', true)             \
    X(BOOL, "bool", "Bool", 1, 1, 'b', true)                                   \
    X(QINT8, "qint8", "QInt8", 1, 1, 'q', true)                                \
    X(QUINT8, "quint8", "QUInt8", 1, 1, 'q', true)                             \
    X(QINT32, "qint32", "QInt32", 4, 4, 'q', true)                             \
    X(BFLOAT16, "bfloat16", "BFloat16", 2, 2, 'f', true)                       \
    X(QUINT4X2, "quint4x2", "QUInt4x2", 1, 1, 'q', true)                       \
    X(QUINT2X4, "quint2x4", "QUInt2x4", 1, 1, 'q', true)                       \
    X(BITS1X8, "bits1x8", "Bits1x8", 1, 1, 'x', false)                         \
    X(BITS2X4, "bits2x4", "Bits2x4", 1, 1, 'x', false)                         \
    X(BITS4X2, "bits4x2", "Bits4x2", 1, 1, 'x', false)                         \
    X(BITS8, "bits8", "Bits8", 1, 1, 'x', false)                               \
    X(BITS16, "bits16", "Bits16", 2, 2, 'x', false)                            \
    X(FLOAT8_E5M2, "float8_e5m2", "Float8_e5m2", 1, 1, 'f', false)             \
    X(FLOAT8_E4M3FN, "float8_e4m3fn", "Float8_e4m3fn", 1, 1, 'f', false)       \
    X(FLOAT8_E5M2FNUZ, "float8_e5m2fnuz", "Float8_e5m2fnuz", 1, 1, 'f', false) \
    X(FLOAT8_E4M3FNUZ, "float8_e4m3fnuz", "Float8_e4m3fnuz", 1, 1, 'f', false) \
    X(UINT16, "uint16", "UInt16", 2, 2, 'u', false)                            \
    X(UINT32, "uint32", "UInt32", 4, 4, 'u', false)                            \
    X(UINT64, "uint64", "UInt64", 8, 8, 'u', false)                            \
    X(UINT1, "uint1", "UInt1", 1, 1, 'u', false)                               \
    X(UINT2, "uint2", "UInt2", 1, 1, 'u', false)                               \
    X(UINT3, "uint3", "UInt3", 1, 1, 'u', false)                               \
    X(UINT4, "uint4", "UInt4", 1, 1, 'u', false)                               \
    X(UINT5, "uint5", "UInt5", 1, 1, 'u', false)                               \
    X(UINT6, "uint6", "UInt6", 1, 1, 'u', false)                               \
    X(UINT7, "uint7", "UInt7", 1, 1, 'u', false)                               \
    X(INT1, "int1", "Int1", 1, 1, 'i', false)                                  \
    X(INT2, "int2", "Int2", 1, 1, 'i', false)                                  \
    X(INT3, "int3", "Int3", 1, 1, 'i', false)                                  \
    X(INT4, "int4", "Int4", 1, 1, 'i', false)                                  \
    X(INT5, "int5", "Int5", 1, 1, 'i', false)                                  \
    X(INT6, "int6", "Int6", 1, 1, 'i', false)                                  \
    X(INT7, "int7", "Int7", 1, 1, 'i', false)                                  \
    X(FLOAT8_E8M0FNU, "float8_e8m0fnu", "Float8_e8m0fnu", 1, 1, 'f', false)    \
    X(FLOAT4_E2M1FN_X2, "float4_e2m1fn_x2", "Float4_e2m1fn_x2", 1, 1, 'f', false)

typedef enum {
    PSD_DTYPE_NONE,
#define PSD_DTYPE_ENUM(id, name, scalar, size, unit, group, typed) PSD_DTYPE_##id,
    PSD_DTYPES(PSD_DTYPE_ENUM)
#undef PSD_DTYPE_ENUM
        PSD_DTYPE_COUNT
} psd_dtype;

typedef struct {
    const char *name;
    const char *scalar;
    uint8_t size;
    uint8_t swap_unit;
    char group;
    bool typed;
} psd_dtype_info;

/* Elements that one byte holds: of the packed quantized types more than one. */
static inline unsigned
psd_dtype_per_byte(psd_dtype dtype)
{
    return dtype == PSD_DTYPE_QUINT4X2 ? 2 : dtype == PSD_DTYPE_QUINT2X4 ? 4 : 1;
}

/* The row of `dtype`, which must be neither NONE nor COUNT. */
const psd_dtype_info *psd_dtype_row(psd_dtype dtype);

/* By torch's name, such as "bfloat16"; also "half", "float", "double", "long",
 * "int", "short", "cfloat", "cdouble", "chalf".  NONE if unknown. */
psd_dtype psd_dtype_from_name(psd_span name);

/* By storage class, such as "BFloat16Storage".  NONE if unknown. */
psd_dtype psd_dtype_from_storage(psd_span class_name);

/* By tensor class, such as "BFloat16Tensor".  NONE if unknown. */
psd_dtype psd_dtype_from_tensor(psd_span class_name);

#endif
