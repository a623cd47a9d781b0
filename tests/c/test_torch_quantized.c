/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized tensors: every scheme in the forms of torch 1.2 to today, packed elements,
 * and parameters that make no reals.
 */
#include "torch_expect.h"

/* ---------------------------------------------------------------- programs */

#define QTENSOR(args) CALL("_rebuild_qtensor", args)
#define BAD_QTENSOR(args) BAD("_rebuild_qtensor", args)
#define ONE(n) "(I" n "\nt"
#define WINDOW(class, numel) STORAGE(class, "q", numel) I("0") TWO_BY_THREE
#define SIX_BYTES WINDOW("QUInt8Storage", "6")

#define PER_TENSOR "(ctorch\nper_tensor_affine\nF0.5\nI10\nt"
#define PER_CHANNEL(scales, zero_points, axis) \
    "(ctorch\nper_channel_affine\n" scales zero_points axis "t"
#define NUMBERS(class, key, numel) \
    V2(STORAGE(class, key, numel) I("0") ONE(numel) ONE("1"))
#define SCALES NUMBERS("DoubleStorage", "s", "2")
#define ZEROS NUMBERS("LongStorage", "z", "2")

/* ---------------------------------------------------------------- what is found */

typedef struct {
    psd_qscheme scheme;
    double scale;
    int64_t zero_point, axis;
    psd_kind of_each; /* the scales and the zero points of channels */
} quantizer;

static void
check_quantizer(psd_span program, psd_dtype dtype, unsigned flags, const quantizer *e,
                int line)
{
    check_guarded g = check_guard(program.data, program.size);
    modelling m;
    model(&m, (psd_span){g.data, g.size});
    bool found = m.status == PSD_OK && root_of(&m)->kind == PSD_KIND_TENSOR;
    CHECK(found);
    if (!found) {
        (void)fprintf(stderr, "  line %d: %s\n", line,
                      m.status == PSD_OK ? "no tensor" : m.r.err.sentence);
    }
    else {
        const psd_tensor *t = &m.model.tensors[root_of(&m)->as.index];
        const psd_quantizer *q = t->more.quantizer;
        CHECK_UINT(t->layout, PSD_LAYOUT_STRIDED);
        CHECK_UINT(t->dtype, dtype);
        CHECK_UINT(t->flags, flags);
        CHECK(q != NULL);
        CHECK_UINT(q->scheme, e->scheme);
        CHECK(memcmp(&q->scale, &e->scale, sizeof q->scale) == 0);
        CHECK(q->zero_point == e->zero_point);
        CHECK(q->axis == e->axis);
        CHECK(psd_kind_of(&m.r.pool, q->scales) == e->of_each);
        CHECK(psd_kind_of(&m.r.pool, q->zero_points) == e->of_each);
    }
    finish_model(&m);
    check_unguard(&g);
}

#define QUANTIZED(program, dtype, flags, ...)                                          \
    check_quantizer(PSD_LITERAL(program "."), dtype, flags, &(quantizer){__VA_ARGS__}, \
                    __LINE__)

static void
test_per_tensor(void)
{
    QUANTIZED(QTENSOR(SIX_BYTES PER_TENSOR FALSE_ HOOKS), PSD_DTYPE_QUINT8, 0,
              PSD_PER_TENSOR, 0.5, 10, 0, PSD_KIND_INVALID);
    QUANTIZED(QTENSOR(WINDOW("QInt8Storage", "6") PER_TENSOR TRUE_ HOOKS),
              PSD_DTYPE_QINT8, PSD_TENSOR_REQUIRES_GRAD, PSD_PER_TENSOR, 0.5, 10, 0,
              PSD_KIND_INVALID);
    QUANTIZED(QTENSOR(WINDOW("QInt32Storage", "6") "(ctorch\nper_tensor_symmetric\nI2\n"
                                                   "I0\nt" FALSE_ "N"),
              PSD_DTYPE_QINT32, 0, PSD_PER_TENSOR, 2.0, 0, 0, PSD_KIND_INVALID);
    /* torch 1.2 and 1.3 */
    QUANTIZED(QTENSOR(SIX_BYTES "F0.25\nI-3\n" FALSE_ HOOKS), PSD_DTYPE_QUINT8, 0,
              PSD_PER_TENSOR, 0.25, -3, 0, PSD_KIND_INVALID);
    QUANTIZED(QTENSOR(SIX_BYTES "I1\nI9223372036854775807\n" TRUE_ HOOKS),
              PSD_DTYPE_QUINT8, PSD_TENSOR_REQUIRES_GRAD, PSD_PER_TENSOR, 1.0,
              INT64_MAX, 0, PSD_KIND_INVALID);
}

static void
test_per_channel(void)
{
    QUANTIZED(QTENSOR(SIX_BYTES PER_CHANNEL(SCALES, ZEROS, I("0")) FALSE_ HOOKS),
              PSD_DTYPE_QUINT8, 0, PSD_PER_CHANNEL, 0, 0, 0, PSD_KIND_TENSOR);
    QUANTIZED(QTENSOR(SIX_BYTES PER_CHANNEL(NUMBERS("DoubleStorage", "s", "3"),
                                            NUMBERS("LongStorage", "z", "3"), I("1"))
                          FALSE_ HOOKS),
              PSD_DTYPE_QUINT8, 0, PSD_PER_CHANNEL, 0, 0, 1, PSD_KIND_TENSOR);
    /* Float zero points, which the writer calls by the same name. */
    QUANTIZED(QTENSOR(SIX_BYTES PER_CHANNEL(NUMBERS("FloatStorage", "s", "2"),
                                            NUMBERS("FloatStorage", "z", "2"), I("0"))
                          FALSE_ HOOKS),
              PSD_DTYPE_QUINT8, 0, PSD_PER_CHANNEL_FLOAT, 0, 0, 0, PSD_KIND_TENSOR);
    QUANTIZED(QTENSOR(SIX_BYTES
                      "(ctorch\nper_channel_affine_float_qparams\n" SCALES ZEROS
                      "I0\nt" FALSE_ HOOKS),
              PSD_DTYPE_QUINT8, 0, PSD_PER_CHANNEL_FLOAT, 0, 0, 0, PSD_KIND_TENSOR);
    /* Lists, in old files. */
    QUANTIZED(QTENSOR(SIX_BYTES PER_CHANNEL("(F0.5\nI2\nl", "(I0\nI-1\nl", I("0"))
                          FALSE_ HOOKS),
              PSD_DTYPE_QUINT8, 0, PSD_PER_CHANNEL, 0, 0, 0, PSD_KIND_LIST);
}

/* Sizes count elements, of which a byte holds two or four. */
static void
test_packed_elements(void)
{
    static const char beyond[] = "a tensor reaches beyond its storage";
#define PACKED(class, bytes, size) \
    STORAGE(class, "q", bytes) I("0") ONE(size) ONE("1") PER_TENSOR FALSE_ HOOKS
    QUANTIZED(QTENSOR(PACKED("QUInt4x2Storage", "3", "6")), PSD_DTYPE_QUINT4X2, 0,
              PSD_PER_TENSOR, 0.5, 10, 0, PSD_KIND_INVALID);
    QUANTIZED(QTENSOR(PACKED("QUInt4x2Storage", "4", "6")), PSD_DTYPE_QUINT4X2, 0,
              PSD_PER_TENSOR, 0.5, 10, 0, PSD_KIND_INVALID);
    QUANTIZED(QTENSOR(PACKED("QUInt4x2Storage", "3", "5")), PSD_DTYPE_QUINT4X2, 0,
              PSD_PER_TENSOR, 0.5, 10, 0, PSD_KIND_INVALID);
    QUANTIZED(QTENSOR(PACKED("QUInt2x4Storage", "2", "8")), PSD_DTYPE_QUINT2X4, 0,
              PSD_PER_TENSOR, 0.5, 10, 0, PSD_KIND_INVALID);
    REFUSED(BAD_QTENSOR(PACKED("QUInt4x2Storage", "2", "5")), PSD_TENSOR, beyond,
            "_rebuild_qtensor", true, 4, 4);
    REFUSED(BAD_QTENSOR(PACKED("QUInt2x4Storage", "1", "5")), PSD_TENSOR, beyond,
            "_rebuild_qtensor", true, 4, 4);
#undef PACKED
}

static void
test_bytes_of_packed_elements(void)
{
    static const struct {
        psd_dtype dtype;
        uint64_t numel, nbytes;
    } rows[] = {
        {PSD_DTYPE_QUINT4X2, 0, 0}, {PSD_DTYPE_QUINT4X2, 1, 1},
        {PSD_DTYPE_QUINT4X2, 2, 1}, {PSD_DTYPE_QUINT4X2, 3, 2},
        {PSD_DTYPE_QUINT2X4, 4, 1}, {PSD_DTYPE_QUINT2X4, 5, 2},
        {PSD_DTYPE_QINT32, 3, 12},  {PSD_DTYPE_QUINT4X2, INT64_MAX, (uint64_t)1 << 62},
    };
    for (size_t i = 0; i < LENGTH(rows); i++) {
        psd_tensor t = {.dtype = (uint8_t)rows[i].dtype, .numel = rows[i].numel};
        CHECK_UINT(psd_tensor_nbytes(&t), rows[i].nbytes);
        /* A storage by itself counts its bytes. */
        t.flags = PSD_TENSOR_STORAGE;
        CHECK_UINT(psd_tensor_nbytes(&t),
                   rows[i].numel * psd_dtype_row(rows[i].dtype)->size);
    }
}

/* ---------------------------------------------------------------- refusals */

#define NO_QTENSOR(args, sentence) \
    REFUSED(BAD_QTENSOR(args), PSD_TENSOR, sentence, "_rebuild_qtensor", false, 0, 0)
#define NO_PARAMETERS(parameters, sentence) \
    NO_QTENSOR(SIX_BYTES parameters FALSE_ HOOKS, sentence)

static void
test_arguments(void)
{
    static const char count[] = "a rebuild function has a wrong number of arguments";
    REFUSED(BAD_QTENSOR(SIX_BYTES PER_TENSOR FALSE_), PSD_TENSOR, count,
            "_rebuild_qtensor", true, 6, 7);
    REFUSED(BAD_QTENSOR(SIX_BYTES PER_TENSOR FALSE_ HOOKS "NN"), PSD_TENSOR, count,
            "_rebuild_qtensor", true, 9, 7);
    NO_QTENSOR(SIX I("0") TWO_BY_THREE PER_TENSOR FALSE_ HOOKS,
               "a quantized tensor on a storage that is not");
    NO_QTENSOR("NI0\n" TWO_BY_THREE PER_TENSOR FALSE_ HOOKS,
               "a tensor is rebuilt from something that is no storage");
    NO_QTENSOR(SIX_BYTES PER_TENSOR I("0") HOOKS,
               "a tensor's requires_grad is not a bool");
    NO_QTENSOR(SIX_BYTES "F1\nI0\nN" HOOKS, "a tensor's requires_grad is not a bool");
}

static void
test_schemes(void)
{
    static const char unknown[] = "a quantized tensor of an unknown scheme";
    NO_PARAMETERS("N", unknown);
    NO_PARAMETERS("(t", unknown);
    NO_PARAMETERS("(ctorch\nper_tensor\nF1\nI0\nt", unknown);
    NO_PARAMETERS("(ctorch\nfloat32\nF1\nI0\nt", unknown);
    NO_PARAMETERS("(cother\nper_tensor_affine\nF1\nI0\nt", unknown);
    NO_PARAMETERS("(lctorch\nper_tensor_affine\naF1\naI0\na", unknown);
}

static void
test_parameters(void)
{
    static const char wrong[] = "a quantized tensor has wrong parameters";
    static const char none[] = "a quantized tensor's axis is none that it has";
    static const char count[] = "a quantized tensor has not one scale for each channel";
    NO_PARAMETERS("(ctorch\nper_tensor_affine\nF1\nt", wrong);
    NO_PARAMETERS("(ctorch\nper_tensor_affine\nF1\nI0\nNt", wrong);
    NO_PARAMETERS("(ctorch\nper_tensor_affine\nNI0\nt", wrong);
    NO_PARAMETERS("(ctorch\nper_tensor_affine\nF1\nF0\nt", wrong);
    NO_PARAMETERS("(ctorch\nper_tensor_affine\nF1\nI01\nt", wrong);
    NO_PARAMETERS("(ctorch\nper_channel_affine\n" SCALES ZEROS "t", wrong);
    NO_PARAMETERS(PER_CHANNEL(SCALES, ZEROS, "N"), wrong);
    NO_PARAMETERS(PER_CHANNEL(SCALES, ZEROS, I("-1")), none);
    REFUSED(BAD_QTENSOR(SIX_BYTES PER_CHANNEL(SCALES, ZEROS, I("2")) FALSE_ HOOKS),
            PSD_TENSOR, none, "_rebuild_qtensor", true, 2, 2);
    NO_PARAMETERS(PER_CHANNEL(SCALES, ZEROS, I("1")), count);
    NO_PARAMETERS(PER_CHANNEL(NUMBERS("DoubleStorage", "s", "3"), ZEROS, I("0")),
                  count);
    NO_PARAMETERS(PER_CHANNEL(SCALES, NUMBERS("LongStorage", "z", "1"), I("0")), count);
    NO_PARAMETERS(PER_CHANNEL("(F1\nl", ZEROS, I("0")), count);
    NO_PARAMETERS(PER_CHANNEL(SCALES, "(I1\nl", I("0")), count);
    /* In the eight-part form, where scale and zero point stand. */
    NO_QTENSOR(SIX_BYTES "NI0\n" FALSE_ HOOKS, wrong);
    NO_QTENSOR(SIX_BYTES "F1\nN" FALSE_ HOOKS, wrong);
    NO_QTENSOR(SIX_BYTES "F1\nF1\n" FALSE_ HOOKS, wrong);
}

/* What scales and zero points are made of must be numbers that are there. */
static void
test_scales_that_are_no_numbers(void)
{
    static const char numbers[] =
        "a quantized tensor's scales or zero points are no numbers";
#define META_NUMBERS(dtype)                 \
    CALL("_rebuild_meta_tensor_no_storage", \
         "ctorch\n" dtype "\n" ONE("2") ONE("1") FALSE_)
#define SPARSE_NUMBERS                                              \
    CALL("_rebuild_sparse_tensor",                                  \
         I("1") ONE("2") FALSE_ V2(STORAGE("LongStorage", "i", "2") \
                                       I("0") "(I1\nI2\nt(I2\nI1\nt") SCALES HOOKS)
    NO_PARAMETERS(PER_CHANNEL("N", ZEROS, I("0")), numbers);
    NO_PARAMETERS(PER_CHANNEL(SCALES, "N", I("0")), numbers);
    NO_PARAMETERS(PER_CHANNEL("(F1\nF1\nt", ZEROS, I("0")), numbers);
    NO_PARAMETERS(PER_CHANNEL("(F1\nVx\nl", ZEROS, I("0")), numbers);
    NO_PARAMETERS(PER_CHANNEL("(F1\nNl", ZEROS, I("0")), numbers);
    NO_PARAMETERS(PER_CHANNEL(SCALES, "(I1\nF1\nl", I("0")), numbers);
    NO_PARAMETERS(PER_CHANNEL(SCALES, "(I1\nL99999999999999999999L\nl", I("0")),
                  numbers);
    NO_PARAMETERS(PER_CHANNEL(META_NUMBERS("float64"), ZEROS, I("0")), numbers);
    NO_PARAMETERS(PER_CHANNEL(SCALES, META_NUMBERS("int64"), I("0")), numbers);
    NO_PARAMETERS(PER_CHANNEL(SPARSE_NUMBERS, ZEROS, I("0")), numbers);
    NO_PARAMETERS(PER_CHANNEL(NUMBERS("LongStorage", "s", "2"), ZEROS, I("0")),
                  numbers);
    NO_PARAMETERS(PER_CHANNEL(NUMBERS("Float8_e5m2Storage", "s", "2"), ZEROS, I("0")),
                  numbers);
    NO_PARAMETERS(PER_CHANNEL(SCALES, NUMBERS("BoolStorage", "z", "2"), I("0")),
                  numbers);
    NO_PARAMETERS(PER_CHANNEL(SCALES, NUMBERS("ComplexFloatStorage", "z", "2"), I("0")),
                  numbers);
    NO_PARAMETERS(PER_CHANNEL(SCALES, NUMBERS("BFloat16Storage", "z", "2"), I("0")),
                  numbers);
    NO_PARAMETERS(PER_CHANNEL(QTENSOR(STORAGE("QUInt8Storage", "u", "2") I("0") ONE("2")
                                          ONE("1") PER_TENSOR FALSE_ HOOKS),
                              ZEROS, I("0")),
                  numbers);
#undef META_NUMBERS
#undef SPARSE_NUMBERS
}

/* A list that two tensors share is good for what it holds, not for what it was taken
 * for before. */
static void
test_lists_that_are_shared(void)
{
#define TWICE(list, again)                                               \
    "(" QTENSOR(SIX_BYTES PER_CHANNEL(list, ZEROS, I("0")) FALSE_ HOOKS) \
        BAD_QTENSOR(SIX_BYTES PER_CHANNEL(SCALES, again, I("0")) FALSE_ HOOKS) "t"
    modelling m;
    uint8_t room[4096];
    uint64_t at;
    model(&m,
          without_caret(PSD_LITERAL(TWICE("(I1\nI2\nlq\x01", "h\x01") "."), room, &at));
    CHECK(m.status == PSD_OK);
    CHECK_UINT(m.model.tensor_count, 4);
    finish_model(&m);
    REFUSED(TWICE("(F1\nI2\nlq\x01", "h\x01"), PSD_TENSOR,
            "a quantized tensor's scales or zero points are no numbers",
            "_rebuild_qtensor", false, 0, 0);
#undef TWICE
}

/* Few bytes are many elements by a stride of 0, which nobody could make reals of. */
static void
test_too_many_elements(void)
{
    static const char many[] = "a quantized tensor has more elements than its storage";
#define EXPANDED(n) STORAGE("QInt8Storage", "q", "1") I("0") ONE(n) ONE("0") PER_TENSOR
    QUANTIZED(QTENSOR(EXPANDED("68719476736") FALSE_ HOOKS), PSD_DTYPE_QINT8, 0,
              PSD_PER_TENSOR, 0.5, 10, 0, PSD_KIND_INVALID);
    REFUSED(BAD_QTENSOR(EXPANDED("68719476737") FALSE_ HOOKS), PSD_TENSOR, many,
            "_rebuild_qtensor", true, 68719476737, 1);
#undef EXPANDED
}

/* ---------------------------------------------------------------- of quantized ones */

static void
test_parameters_of_quantized_tensors(void)
{
    QUANTIZED(CALL("_rebuild_parameter",
                   QTENSOR(SIX_BYTES PER_TENSOR FALSE_ HOOKS) FALSE_ HOOKS),
              PSD_DTYPE_QUINT8, PSD_TENSOR_PARAMETER, PSD_PER_TENSOR, 0.5, 10, 0,
              PSD_KIND_INVALID);
    QUANTIZED(
        "ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_qtensor\n"
        "ctorch\nTensor\n(" SIX_BYTES PER_TENSOR FALSE_ HOOKS "t(dtR",
        PSD_DTYPE_QUINT8, 0, PSD_PER_TENSOR, 0.5, 10, 0, PSD_KIND_INVALID);
}

static void
test_every_failing_request(void)
{
    const psd_span program = PSD_LITERAL(
        "(" QTENSOR(SIX_BYTES PER_TENSOR FALSE_ HOOKS)
            QTENSOR(SIX_BYTES PER_CHANNEL(SCALES, ZEROS, I("0")) FALSE_ HOOKS) "t.");
    check_every_failing_request(program);
    check_every_failing_page(program);
}

int
main(void)
{
    RUN(test_per_tensor);
    RUN(test_per_channel);
    RUN(test_packed_elements);
    RUN(test_bytes_of_packed_elements);
    RUN(test_arguments);
    RUN(test_schemes);
    RUN(test_parameters);
    RUN(test_scales_that_are_no_numbers);
    RUN(test_lists_that_are_shared);
    RUN(test_too_many_elements);
    RUN(test_parameters_of_quantized_tensors);
    RUN(test_every_failing_request);
    return check_report();
}
