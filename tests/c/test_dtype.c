/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"
#include "dtype.h"

static psd_span
text(const char *literal)
{
    return (psd_span){(const uint8_t *)literal, strlen(literal)};
}

/* The name with something after it, as a span of its own that ends at a guard page. */
static psd_dtype
guarded(psd_dtype (*find)(psd_span), const char *name, const char *more)
{
    char joined[64];
    int size = snprintf(joined, sizeof joined, "%s%s", name, more);
    check_guarded g = check_guard(joined, (size_t)size);
    psd_dtype dtype = find((psd_span){g.data, (size_t)size});
    check_unguard(&g);
    return dtype;
}

static void
test_every_row_is_found_by_its_names(void)
{
    for (int i = 1; i < PSD_DTYPE_COUNT; i++) {
        const psd_dtype_info *row = psd_dtype_row((psd_dtype)i);
        CHECK(guarded(psd_dtype_from_name, row->name, "") == (psd_dtype)i);
        CHECK(guarded(psd_dtype_from_storage, row->scalar, "Storage") == (psd_dtype)i);
        CHECK(guarded(psd_dtype_from_tensor, row->scalar, "Tensor") == (psd_dtype)i);
    }
}

static void
test_rows_make_sense(void)
{
    for (int i = 1; i < PSD_DTYPE_COUNT; i++) {
        const psd_dtype_info *row = psd_dtype_row((psd_dtype)i);
        CHECK(row->size == 1 || row->size == 2 || row->size == 4 || row->size == 8 ||
              row->size == 16);
        CHECK(row->swap_unit * (row->group == 'c' ? 2 : 1) == row->size);
        CHECK(strchr("fciubqx", row->group) != NULL);
        for (int k = 1; k < i; k++) {
            CHECK(strcmp(row->name, psd_dtype_row((psd_dtype)k)->name) != 0);
            CHECK(strcmp(row->scalar, psd_dtype_row((psd_dtype)k)->scalar) != 0);
        }
    }
}

/* torch/storage.py has a typed storage class for just these. */
static void
test_what_is_typed(void)
{
    static const char *const typed[] = {
        "float64", "float32", "float16", "bfloat16", "int64",      "int32",
        "int16",   "int8",    "uint8",   "bool",     "complex128", "complex64",
        "qint8",   "quint8",  "qint32",  "quint4x2", "quint2x4",
    };
    unsigned count = 0;
    for (int i = 1; i < PSD_DTYPE_COUNT; i++) {
        count += psd_dtype_row((psd_dtype)i)->typed;
    }
    CHECK_UINT(count, sizeof typed / sizeof *typed);
    for (size_t i = 0; i < sizeof typed / sizeof *typed; i++) {
        psd_dtype dtype = psd_dtype_from_name(text(typed[i]));
        CHECK(dtype != PSD_DTYPE_NONE && psd_dtype_row(dtype)->typed);
    }
}

/* Sizes and classes as section 7 of the format's description has them. */
static void
test_some_rows(void)
{
    static const struct {
        const char *name, *storage;
        unsigned size;
    } rows[] = {
        {"float32", "FloatStorage", 4},
        {"float64", "DoubleStorage", 8},
        {"float16", "HalfStorage", 2},
        {"bfloat16", "BFloat16Storage", 2},
        {"int64", "LongStorage", 8},
        {"int8", "CharStorage", 1},
        {"uint8", "ByteStorage", 1},
        {"bool", "BoolStorage", 1},
        {"complex32", "ComplexHalfStorage", 4},
        {"complex64", "ComplexFloatStorage", 8},
        {"complex128", "ComplexDoubleStorage", 16},
        {"qint32", "QInt32Storage", 4},
        {"float8_e4m3fn", "Float8_e4m3fnStorage", 1},
        {"float8_e8m0fnu", "Float8_e8m0fnuStorage", 1},
        {"float4_e2m1fn_x2", "Float4_e2m1fn_x2Storage", 1},
        {"uint16", "UInt16Storage", 2},
        {"uint64", "UInt64Storage", 8},
        {"bits16", "Bits16Storage", 2},
        {"int4", "Int4Storage", 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        psd_dtype dtype = psd_dtype_from_name(text(rows[i].name));
        CHECK(dtype != PSD_DTYPE_NONE);
        CHECK(dtype == psd_dtype_from_storage(text(rows[i].storage)));
        CHECK_UINT(psd_dtype_row(dtype)->size, rows[i].size);
    }
}

static void
test_short_names(void)
{
    static const char *const pairs[][2] = {
        {"half", "float16"},    {"float", "float32"},    {"double", "float64"},
        {"short", "int16"},     {"int", "int32"},        {"long", "int64"},
        {"chalf", "complex32"}, {"cfloat", "complex64"}, {"cdouble", "complex128"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        psd_dtype dtype = guarded(psd_dtype_from_name, pairs[i][0], "");
        CHECK(dtype != PSD_DTYPE_NONE);
        CHECK(dtype == psd_dtype_from_name(text(pairs[i][1])));
    }
}

static void
test_what_is_no_name(void)
{
    static const char *const names[] = {
        "",        "f",        "float3",     "float320",
        "Float32", "float32 ", "none",       "torch.float32",
        "Storage", "Tensor",   "FloatTensor"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        CHECK(guarded(psd_dtype_from_name, names[i], "") == PSD_DTYPE_NONE);
    }
    static const char *const classes[] = {
        "",      "Storage",        "FloatStorage ", "floatStorage",
        "Float", "UntypedStorage", "FloatTensor",   "FloatStorageStorage"};
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        CHECK(guarded(psd_dtype_from_storage, classes[i], "") == PSD_DTYPE_NONE);
    }
    static const char *const tensors[] = {"", "Tensor", "FloatStorage", "Float",
                                          "floatTensor"};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        CHECK(guarded(psd_dtype_from_tensor, tensors[i], "") == PSD_DTYPE_NONE);
    }
}

int
main(void)
{
    RUN(test_every_row_is_found_by_its_names);
    RUN(test_rows_make_sense);
    RUN(test_what_is_typed);
    RUN(test_some_rows);
    RUN(test_short_names);
    RUN(test_what_is_no_name);
    return check_report();
}
