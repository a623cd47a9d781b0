/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors made of others: every layout, in the forms of Python and of TorchScript,
 * and parts that do not fit together.
 */
#include "torch_expect.h"

/* ---------------------------------------------------------------- programs */

#define LAYOUT(name) "ctorch.serialization\n_get_layout\n(Vtorch." name "\ntR"
#define SPARSE(layout, data) CALL("_rebuild_sparse_tensor", layout TUPLE(data))
#define BAD_SPARSE(layout, data) BAD("_rebuild_sparse_tensor", layout TUPLE(data))

/* A tensor of such a storage; sizes and strides are tuples. */
#define OF(class, key, numel, size, stride) \
    V2(STORAGE(class, key, numel) I("0") size stride)
#define LONGS(key, numel, size, stride) OF("LongStorage", key, numel, size, stride)
#define FLOATS(key, numel, size, stride) OF("FloatStorage", key, numel, size, stride)
#define ONE(n) "(I" n "\nt"
#define TWO(n, m) "(I" n "\nI" m "\nt"
#define THREE(n, m, k) "(I" n "\nI" m "\nI" k "\nt"

/* Two elements of a matrix of 3 by 4. */
#define INDICES LONGS("i", "4", TWO("2", "2"), TWO("2", "1"))
#define VALUES FLOATS("v", "2", ONE("2"), ONE("1"))
#define MATRIX TWO("3", "4")
/* The same compressed by rows and by columns. */
#define CROW LONGS("c", "4", ONE("4"), ONE("1"))
#define CCOL LONGS("cc", "5", ONE("5"), ONE("1"))
#define PLAIN LONGS("p", "2", ONE("2"), ONE("1"))

/* ---------------------------------------------------------------- what is found */

typedef struct {
    psd_layout layout;
    psd_dtype dtype;
    unsigned flags;
    int coalesced;
    uint64_t nbytes;
    const char *parts; /* with a blank behind each */
    unsigned rank;
    int64_t shape[4];
} composed;

static void
check_composed(psd_span program, const composed *e, int line)
{
    check_guarded g = check_guard(program.data, program.size);
    modelling m;
    model(&m, (psd_span){g.data, g.size});
    bool found = m.status == PSD_OK && root_of(&m)->kind == PSD_KIND_TENSOR;
    CHECK(found);
    if (!found) {
        (void)fprintf(stderr, "  line %d: %s\n", line,
                      m.status == PSD_OK ? "no tensor" : m.r.err.sentence);
        finish_model(&m);
        check_unguard(&g);
        return;
    }
    const psd_tensor *t = &m.model.tensors[root_of(&m)->as.index];
    char names[256] = "";
    CHECK_UINT(t->layout, e->layout);
    CHECK_UINT(t->dtype, e->dtype);
    CHECK_UINT(t->flags, e->flags);
    CHECK_UINT(t->storage, PSD_NO_STORAGE);
    CHECK_UINT(t->rank, e->rank);
    for (unsigned i = 0; i < e->rank && i < t->rank && i < 4; i++) {
        CHECK(t->shape[i] == e->shape[i]);
    }
    const psd_composite *c = t->more.composite;
    for (uint32_t i = 0; i < c->count; i++) {
        CHECK(psd_kind_of(&m.r.pool, c->parts[i].tensor) == PSD_KIND_TENSOR);
        (void)snprintf(names + strlen(names), sizeof names - strlen(names), "%.*s ",
                       (int)c->parts[i].name.size, (const char *)c->parts[i].name.data);
    }
    CHECK(strcmp(names, e->parts) == 0);
    CHECK(c->coalesced == e->coalesced);
    CHECK_UINT(psd_tensor_nbytes(t), e->nbytes);
    CHECK(c->at == m.r.pickle.root || (e->flags & PSD_TENSOR_PARAMETER) != 0);
    finish_model(&m);
    check_unguard(&g);
}

#define COMPOSED(program, ...) \
    check_composed(PSD_LITERAL(program "."), &(composed){__VA_ARGS__}, __LINE__)
#define NOT_FITTING(program, sentence) \
    REFUSED(program, PSD_TENSOR, sentence, "_rebuild_sparse_tensor", false, 0, 0)

static void
test_names_of_layouts(void)
{
    for (int i = 0; i < PSD_LAYOUT_COUNT; i++) {
        CHECK(strlen(psd_layout_name((psd_layout)i)) > 5);
    }
    CHECK(strcmp(psd_layout_name(PSD_LAYOUT_SPARSE_BSC), "sparse_bsc") == 0);
    CHECK(strcmp(psd_layout_name(PSD_LAYOUT_SUBCLASS), "subclass") == 0);
}

/* ---------------------------------------------------------------- COO */

#define COO_PARTS "indices values "

static void
test_coo(void)
{
    COMPOSED(SPARSE(LAYOUT("sparse_coo"), INDICES VALUES MATRIX), PSD_LAYOUT_SPARSE_COO,
             PSD_DTYPE_FLOAT32, 0, -1, 40, COO_PARTS, 2, {3, 4});
    COMPOSED(SPARSE(LAYOUT("sparse_coo"), INDICES VALUES MATRIX TRUE_),
             PSD_LAYOUT_SPARSE_COO, PSD_DTYPE_FLOAT32, 0, 1, 40, COO_PARTS, 2, {3, 4});
    COMPOSED(SPARSE(LAYOUT("sparse_coo"), INDICES VALUES MATRIX FALSE_),
             PSD_LAYOUT_SPARSE_COO, PSD_DTYPE_FLOAT32, 0, 0, 40, COO_PARTS, 2, {3, 4});
    COMPOSED(SPARSE(LAYOUT("sparse_coo"), INDICES VALUES MATRIX "N"),
             PSD_LAYOUT_SPARSE_COO, PSD_DTYPE_FLOAT32, 0, -1, 40, COO_PARTS, 2, {3, 4});
    /* One sparse dimension, and one dense behind it. */
    COMPOSED(SPARSE(LAYOUT("sparse_coo"),
                    LONGS("i", "2", TWO("1", "2"), TWO("2", "1"))
                        FLOATS("v", "8", TWO("2", "4"), TWO("4", "1")) MATRIX),
             PSD_LAYOUT_SPARSE_COO, PSD_DTYPE_FLOAT32, 0, -1, 48, COO_PARTS, 2, {3, 4});
    /* No element at all, and no dimension. */
    COMPOSED(SPARSE(LAYOUT("sparse_coo"),
                    LONGS("i", "0", TWO("2", "0"), TWO("1", "1"))
                        FLOATS("v", "0", ONE("0"), ONE("1")) MATRIX),
             PSD_LAYOUT_SPARSE_COO, PSD_DTYPE_FLOAT32, 0, -1, 0, COO_PARTS, 2, {3, 4});
    COMPOSED(SPARSE(LAYOUT("sparse_coo"),
                    LONGS("i", "0", TWO("0", "2"), TWO("2", "1")) VALUES "("
                                                                         "t"),
             PSD_LAYOUT_SPARSE_COO, PSD_DTYPE_FLOAT32, 0, -1, 8, COO_PARTS, 0, {0});
    /* A list instead of a tuple, and a torch.Size. */
    COMPOSED(CALL("_rebuild_sparse_tensor",
                  LAYOUT("sparse_coo") "(" INDICES VALUES "ctorch\nSize\n(" MATRIX
                                       "tRl"),
             PSD_LAYOUT_SPARSE_COO, PSD_DTYPE_FLOAT32, 0, -1, 40, COO_PARTS, 2, {3, 4});
}

static void
test_coo_as_torchscript_writes_it(void)
{
    COMPOSED(CALL("_rebuild_sparse_tensor", I("1") MATRIX FALSE_ INDICES VALUES HOOKS),
             PSD_LAYOUT_SPARSE_COO, PSD_DTYPE_FLOAT32, 0, -1, 40, COO_PARTS, 2, {3, 4});
    COMPOSED(CALL("_rebuild_sparse_tensor", I("1") MATRIX TRUE_ INDICES VALUES "N"),
             PSD_LAYOUT_SPARSE_COO, PSD_DTYPE_FLOAT32, PSD_TENSOR_REQUIRES_GRAD, -1, 40,
             COO_PARTS, 2, {3, 4});
}

static void
test_coo_that_does_not_fit(void)
{
    static const char apart[] =
        "indices, values and size of a COO tensor do not fit together";
    static const char another[] =
        "the values of a COO tensor have another size than it has";
    static const char no_part[] = "a part of a tensor is not a dense tensor";
#define COO(data) BAD_SPARSE(LAYOUT("sparse_coo"), data)
    NOT_FITTING(COO(INDICES VALUES), "a COO tensor has not three or four parts");
    NOT_FITTING(COO(INDICES VALUES MATRIX TRUE_ "N"),
                "a COO tensor has not three or four parts");
    NOT_FITTING(COO("N" VALUES MATRIX), no_part);
    NOT_FITTING(COO(INDICES "I1\n" MATRIX), no_part);
    NOT_FITTING(COO(INDICES VALUES "N"), "a tensor's size or stride is not a tuple");
    NOT_FITTING(COO(INDICES VALUES TWO("3", "-4")), "a tensor's size is negative");
    NOT_FITTING(COO(INDICES VALUES TWO("4294967296", "4294967296")),
                "a tensor's number of elements overflows");
    NOT_FITTING(COO(INDICES VALUES ONE("3")), apart);
    NOT_FITTING(COO(INDICES VALUES THREE("3", "4", "5")), apart);
    NOT_FITTING(COO(FLOATS("i", "4", TWO("2", "2"), TWO("2", "1")) VALUES MATRIX),
                apart);
    NOT_FITTING(COO(LONGS("i", "2", ONE("2"), ONE("1")) VALUES MATRIX), apart);
    NOT_FITTING(COO(INDICES FLOATS("v", "1", ")", ")") MATRIX), apart);
    NOT_FITTING(COO(INDICES FLOATS("v", "3", ONE("3"), ONE("1")) MATRIX), apart);
    NOT_FITTING(COO(LONGS("i", "2", TWO("1", "2"), TWO("2", "1"))
                        FLOATS("v", "6", TWO("2", "3"), TWO("3", "1")) MATRIX),
                another);
    /* Without elements a size may be any; it must not wrap. */
    NOT_FITTING(COO(LONGS("i", "0", TWO("9223372036854775807", "0"), TWO("1", "1"))
                        FLOATS("v", "0", TWO("0", "5"), TWO("5", "1")) MATRIX),
                apart);
    /* A part without bytes. */
    NOT_FITTING(
        COO(CALL("_rebuild_meta_tensor_no_storage",
                 "ctorch\nint64\n" TWO("2", "2") TWO("2", "1") FALSE_) VALUES MATRIX),
        no_part);
    /* A sparse tensor of sparse ones. */
    NOT_FITTING(COO(INDICES SPARSE(LAYOUT("sparse_coo"), INDICES VALUES MATRIX) MATRIX),
                no_part);
#undef COO
}

/* ---------------------------------------------------------------- compressed */

#define CSR_PARTS "crow_indices col_indices values "
#define CSC_PARTS "ccol_indices row_indices values "

static void
test_csr_and_csc(void)
{
    COMPOSED(SPARSE(LAYOUT("sparse_csr"), CROW PLAIN VALUES MATRIX),
             PSD_LAYOUT_SPARSE_CSR, PSD_DTYPE_FLOAT32, 0, -1, 56, CSR_PARTS, 2, {3, 4});
    COMPOSED(SPARSE(LAYOUT("sparse_csc"), CCOL PLAIN VALUES MATRIX),
             PSD_LAYOUT_SPARSE_CSC, PSD_DTYPE_FLOAT32, 0, -1, 64, CSC_PARTS, 2, {3, 4});
    /* torch 1.10 to 1.13 */
    COMPOSED(CALL("_rebuild_sparse_csr_tensor",
                  LAYOUT("sparse_csr") TUPLE(CROW PLAIN VALUES MATRIX)),
             PSD_LAYOUT_SPARSE_CSR, PSD_DTYPE_FLOAT32, 0, -1, 56, CSR_PARTS, 2, {3, 4});
    COMPOSED(
        CALL("_rebuild_sparse_tensor", I("2") MATRIX FALSE_ CROW PLAIN VALUES HOOKS),
        PSD_LAYOUT_SPARSE_CSR, PSD_DTYPE_FLOAT32, 0, -1, 56, CSR_PARTS, 2, {3, 4});
    COMPOSED(
        CALL("_rebuild_sparse_tensor", I("4") MATRIX TRUE_ CCOL PLAIN VALUES HOOKS),
        PSD_LAYOUT_SPARSE_CSC, PSD_DTYPE_FLOAT32, PSD_TENSOR_REQUIRES_GRAD, -1, 64,
        CSC_PARTS, 2, {3, 4});
    /* Indices of 32 bits. */
    COMPOSED(SPARSE(LAYOUT("sparse_csr"),
                    OF("IntStorage", "c", "4", ONE("4"), ONE("1"))
                        OF("IntStorage", "p", "2", ONE("2"), ONE("1")) VALUES MATRIX),
             PSD_LAYOUT_SPARSE_CSR, PSD_DTYPE_FLOAT32, 0, -1, 32, CSR_PARTS, 2, {3, 4});
    /* A batch of five, each of 3 by 4. */
    COMPOSED(SPARSE(LAYOUT("sparse_csr"),
                    LONGS("c", "20", TWO("5", "4"), TWO("4", "1"))
                        LONGS("p", "10", TWO("5", "2"), TWO("2", "1"))
                            FLOATS("v", "10", TWO("5", "2"), TWO("2", "1"))
                                THREE("5", "3", "4")),
             PSD_LAYOUT_SPARSE_CSR, PSD_DTYPE_FLOAT32, 0, -1, 280, CSR_PARTS, 3,
             {5, 3, 4});
    /* A dense dimension behind. */
    COMPOSED(SPARSE(LAYOUT("sparse_csr"),
                    CROW PLAIN FLOATS("v", "4", TWO("2", "2"), TWO("2", "1"))
                        THREE("3", "4", "2")),
             PSD_LAYOUT_SPARSE_CSR, PSD_DTYPE_FLOAT32, 0, -1, 64, CSR_PARTS, 3,
             {3, 4, 2});
    /* No rows: still one index. */
    COMPOSED(SPARSE(LAYOUT("sparse_csr"),
                    LONGS("c", "1", ONE("1"), ONE("1")) PLAIN VALUES TWO("0", "4")),
             PSD_LAYOUT_SPARSE_CSR, PSD_DTYPE_FLOAT32, 0, -1, 32, CSR_PARTS, 2, {0, 4});
}

#define BLOCKS FLOATS("k", "8", THREE("2", "1", "4"), THREE("4", "4", "1"))
#define BSR_SIZE TWO("3", "8")

static void
test_bsr_and_bsc(void)
{
    COMPOSED(SPARSE(LAYOUT("sparse_bsr"), CROW PLAIN BLOCKS BSR_SIZE),
             PSD_LAYOUT_SPARSE_BSR, PSD_DTYPE_FLOAT32, 0, -1, 80, CSR_PARTS, 2, {3, 8});
    /* Eight columns in blocks of four: two, so three indices. */
    COMPOSED(SPARSE(LAYOUT("sparse_bsc"),
                    LONGS("c", "3", ONE("3"), ONE("1")) PLAIN BLOCKS BSR_SIZE),
             PSD_LAYOUT_SPARSE_BSC, PSD_DTYPE_FLOAT32, 0, -1, 72, CSC_PARTS, 2, {3, 8});
    COMPOSED(
        CALL("_rebuild_sparse_tensor", I("5") BSR_SIZE FALSE_ CROW PLAIN BLOCKS HOOKS),
        PSD_LAYOUT_SPARSE_BSR, PSD_DTYPE_FLOAT32, 0, -1, 80, CSR_PARTS, 2, {3, 8});
    COMPOSED(CALL("_rebuild_sparse_tensor",
                  I("6") BSR_SIZE FALSE_ LONGS("c", "3", ONE("3"), ONE("1"))
                      PLAIN BLOCKS HOOKS),
             PSD_LAYOUT_SPARSE_BSC, PSD_DTYPE_FLOAT32, 0, -1, 72, CSC_PARTS, 2, {3, 8});
}

static void
test_compressed_that_do_not_fit(void)
{
    static const char apart[] =
        "indices, values and size of a sparse tensor do not fit together";
    static const char rows[] = "a sparse tensor has not one index more than rows";
    static const char no_part[] = "a part of a tensor is not a dense tensor";
#define CSR(data) BAD_SPARSE(LAYOUT("sparse_csr"), data)
#define BSR(data) BAD_SPARSE(LAYOUT("sparse_bsr"), data)
    NOT_FITTING(CSR(CROW PLAIN VALUES),
                "a compressed sparse tensor has not four parts");
    NOT_FITTING(CSR("N" PLAIN VALUES MATRIX), no_part);
    NOT_FITTING(CSR(CROW "N" VALUES MATRIX), no_part);
    NOT_FITTING(CSR(CROW PLAIN "N" MATRIX), no_part);
    NOT_FITTING(CSR(CROW PLAIN VALUES "V2\n"),
                "a tensor's size or stride is not a tuple");
    NOT_FITTING(CSR(FLOATS("c", "4", ONE("4"), ONE("1")) PLAIN VALUES MATRIX), apart);
    NOT_FITTING(CSR(OF("IntStorage", "c", "4", ONE("4"), ONE("1")) PLAIN VALUES MATRIX),
                apart);
    NOT_FITTING(CSR(LONGS("c", "1", ")", ")") LONGS("p", "1", ")", ")") VALUES MATRIX),
                apart);
    NOT_FITTING(CSR(CROW LONGS("p", "2", TWO("1", "2"), TWO("2", "1")) VALUES MATRIX),
                apart);
    NOT_FITTING(CSR(CROW PLAIN VALUES ONE("3")), apart);
    NOT_FITTING(CSR(CROW PLAIN VALUES ")"), apart);
    NOT_FITTING(CSR(CROW PLAIN VALUES THREE("3", "4", "1")), apart);
    NOT_FITTING(CSR(CROW PLAIN FLOATS("v", "3", ONE("3"), ONE("1")) MATRIX), apart);
    NOT_FITTING(BSR(CROW PLAIN VALUES MATRIX), apart);
    /* The batches of the parts differ. */
    NOT_FITTING(CSR(LONGS("c", "20", TWO("5", "4"), TWO("4", "1"))
                        LONGS("p", "8", TWO("4", "2"), TWO("2", "1"))
                            FLOATS("v", "10", TWO("5", "2"), TWO("2", "1"))
                                THREE("5", "3", "4")),
                apart);
    NOT_FITTING(CSR(CCOL PLAIN VALUES MATRIX), rows);
    NOT_FITTING(BAD_SPARSE(LAYOUT("sparse_csc"), CROW PLAIN VALUES MATRIX), rows);
    NOT_FITTING(BSR(CROW PLAIN FLOATS("v", "0", THREE("2", "0", "4"),
                                      THREE("0", "4", "1")) BSR_SIZE),
                rows);
    NOT_FITTING(BSR(CROW PLAIN FLOATS("v", "16", THREE("2", "2", "4"),
                                      THREE("8", "4", "1")) BSR_SIZE),
                rows);
    /* As many rows as there can be, and one more does not fit into 64 bits. */
    NOT_FITTING(CSR(CROW PLAIN VALUES TWO("9223372036854775807", "1")), rows);
    NOT_FITTING(CSR(CROW PLAIN VALUES TWO("9223372036854775807", "0")), rows);
#undef CSR
#undef BSR
}

static void
test_layouts_that_are_none(void)
{
    static const char unknown[] = "a sparse tensor of a layout that is not known";
    static const char count[] = "a sparse tensor has a wrong number of arguments";
#define REFUSED_LAYOUT(layout) \
    NOT_FITTING(BAD_SPARSE(layout, INDICES VALUES MATRIX), unknown)
    REFUSED_LAYOUT("N");
    REFUSED_LAYOUT("Vtorch.sparse_coo\n");
    REFUSED_LAYOUT(LAYOUT("strided"));
    REFUSED_LAYOUT(LAYOUT("sparse_co"));
    REFUSED_LAYOUT(LAYOUT("sparse_coo2"));
    REFUSED_LAYOUT("ctorch.serialization\n_get_layout\n(Vtorch_sparse_coo\ntR");
    REFUSED_LAYOUT("ctorch.serialization\n_get_layout\n(NtR");
    REFUSED_LAYOUT("ctorch.serialization\n_get_layout\n)R");
    REFUSED_LAYOUT("ctorch.serialization\n_get_layout\nNR");
    REFUSED_LAYOUT("cother\n_get_layout\n(Vtorch.sparse_coo\ntR");
    REFUSED_LAYOUT(I("-1"));
    REFUSED_LAYOUT(I("0"));
    REFUSED_LAYOUT(I("3"));
    REFUSED_LAYOUT(I("7"));
    REFUSED_LAYOUT(I("9223372036854775807"));
#undef REFUSED_LAYOUT
    NOT_FITTING("ctorch._utils\n_rebuild_sparse_tensor\n)^R", unknown);
    NOT_FITTING(BAD("_rebuild_sparse_tensor", LAYOUT("sparse_coo")), count);
    NOT_FITTING(BAD("_rebuild_sparse_tensor", LAYOUT("sparse_coo") INDICES VALUES),
                count);
    NOT_FITTING(
        BAD("_rebuild_sparse_tensor", I("2") MATRIX FALSE_ CROW PLAIN VALUES HOOKS "N"),
        count);
    NOT_FITTING(BAD("_rebuild_sparse_tensor", LAYOUT("sparse_coo") INDICES),
                "the parts of a sparse tensor are no tuple");
    /* TorchScript's forms, each with the other's number of arguments. */
    NOT_FITTING(BAD("_rebuild_sparse_tensor", I("2") MATRIX FALSE_ CROW PLAIN HOOKS),
                "a compressed sparse tensor has not four parts");
    NOT_FITTING(
        BAD("_rebuild_sparse_tensor", I("1") MATRIX FALSE_ INDICES VALUES HOOKS "N"),
        "a tensor's size or stride is not a tuple");
}

/* ---------------------------------------------------------------- nested */

#define NESTED(parts) CALL("_rebuild_nested_tensor", parts)
#define BUFFER FLOATS("b", "6", ONE("6"), ONE("1"))
#define SIZES LONGS("s", "4", TWO("2", "2"), TWO("2", "1"))
#define STARTS LONGS("st", "2", ONE("2"), ONE("1"))
#define NESTED_PARTS "buffer sizes strides offsets "

static void
test_nested(void)
{
    static const char apart[] = "the parts of a nested tensor do not fit together";
    COMPOSED(NESTED(BUFFER SIZES SIZES STARTS), PSD_LAYOUT_NESTED, PSD_DTYPE_FLOAT32, 0,
             -1, 24 + 32 + 32 + 16, NESTED_PARTS, 3, {2, -1, -1});
    /* Of nothing. */
    COMPOSED(NESTED(BUFFER LONGS("s", "0", TWO("0", "0"), TWO("1", "1"))
                        LONGS("t", "0", TWO("0", "0"), TWO("1", "1"))
                            LONGS("o", "0", ONE("0"), ONE("1"))),
             PSD_LAYOUT_NESTED, PSD_DTYPE_FLOAT32, 0, -1, 24, NESTED_PARTS, 1, {0});
#define REFUSED_PARTS(parts, sentence)                                  \
    REFUSED(BAD("_rebuild_nested_tensor", parts), PSD_TENSOR, sentence, \
            "_rebuild_nested_tensor", false, 0, 0)
    REFUSED_PARTS(BUFFER SIZES SIZES, "a nested tensor has not four parts");
    REFUSED_PARTS(BUFFER SIZES SIZES STARTS "N", "a nested tensor has not four parts");
    REFUSED_PARTS(BUFFER SIZES SIZES "N", "a part of a tensor is not a dense tensor");
    REFUSED_PARTS(SIZES SIZES SIZES STARTS, apart);
    REFUSED_PARTS(BUFFER STARTS SIZES STARTS, apart);
    REFUSED_PARTS(BUFFER SIZES STARTS STARTS, apart);
    REFUSED_PARTS(BUFFER SIZES SIZES SIZES, apart);
    REFUSED_PARTS(BUFFER SIZES SIZES LONGS("o", "3", ONE("3"), ONE("1")), apart);
    REFUSED_PARTS(BUFFER SIZES LONGS("t", "6", TWO("2", "3"), TWO("3", "1")) STARTS,
                  apart);
    REFUSED_PARTS(BUFFER SIZES LONGS("t", "2", TWO("1", "2"), TWO("2", "1")) STARTS,
                  apart);
    REFUSED_PARTS(BUFFER FLOATS("f", "4", TWO("2", "2"), TWO("2", "1")) SIZES STARTS,
                  apart);
    REFUSED_PARTS(BUFFER SIZES FLOATS("f", "4", TWO("2", "2"), TWO("2", "1")) STARTS,
                  apart);
    REFUSED_PARTS(BUFFER SIZES SIZES FLOATS("o", "2", ONE("2"), ONE("1")), apart);
    /* More dimensions than there can be. */
    REFUSED_PARTS(BUFFER LONGS("s", "64", TWO("1", "64"), TWO("64", "1"))
                      LONGS("t", "64", TWO("1", "64"), TWO("64", "1"))
                          LONGS("o", "1", ONE("1"), ONE("1")),
                  apart);
    COMPOSED(NESTED(BUFFER LONGS("s", "63", TWO("1", "63"), TWO("63", "1"))
                        LONGS("t", "63", TWO("1", "63"), TWO("63", "1"))
                            LONGS("o", "1", ONE("1"), ONE("1"))),
             PSD_LAYOUT_NESTED, PSD_DTYPE_FLOAT32, 0, -1, 24 + 1008 + 8, NESTED_PARTS,
             64, {1, -1, -1, -1});
#undef REFUSED_PARTS
}

/* ---------------------------------------------------------------- jagged */

#define NJT "ctorch.nested._internal.nested_tensor\n"
#define AS_JAGGED(dict)                                                 \
    "ctorch._tensor\n_rebuild_from_type_v2\n(" NJT "_rebuild_njt\n" NJT \
    "NestedTensor\n((" dict "dt(dtR"
#define BAD_JAGGED(dict)                                                \
    "ctorch._tensor\n_rebuild_from_type_v2\n(" NJT "_rebuild_njt\n" NJT \
    "NestedTensor\n((" dict "dt(dt^R"
#define ROWS FLOATS("r", "12", TWO("6", "2"), TWO("2", "1"))
#define OFFSETS LONGS("o", "4", ONE("4"), ONE("1"))
#define LENGTHS LONGS("l", "3", ONE("3"), ONE("1"))
#define VALUES_ARE(tensor) "Vvalues\n" tensor
#define OFFSETS_ARE(tensor) "Voffsets\n" tensor

static void
test_jagged(void)
{
    COMPOSED(AS_JAGGED(VALUES_ARE(ROWS) OFFSETS_ARE(OFFSETS)), PSD_LAYOUT_JAGGED,
             PSD_DTYPE_FLOAT32, 0, -1, 48 + 32, "values offsets ", 3, {3, -1, 2});
    COMPOSED(AS_JAGGED(VALUES_ARE(ROWS) OFFSETS_ARE(OFFSETS) "Vlengths\nN"
                                                             "V_ragged_idx\nI1\n"
                                                             "Vrequires_grad\nI01\n"),
             PSD_LAYOUT_JAGGED, PSD_DTYPE_FLOAT32, PSD_TENSOR_REQUIRES_GRAD, -1,
             48 + 32, "values offsets ", 3, {3, -1, 2});
    COMPOSED(AS_JAGGED(VALUES_ARE(ROWS) OFFSETS_ARE(OFFSETS) "V_ragged_idx\nI2\n"
                                                             "Vlengths\n" LENGTHS),
             PSD_LAYOUT_JAGGED, PSD_DTYPE_FLOAT32, 0, -1, 48 + 32 + 24,
             "values offsets lengths ", 3, {3, 6, -1});
    /* By itself, without a type. */
    COMPOSED(NJT "_rebuild_njt\n((" VALUES_ARE(ROWS) OFFSETS_ARE(OFFSETS) "dtR",
             PSD_LAYOUT_JAGGED, PSD_DTYPE_FLOAT32, 0, -1, 48 + 32, "values offsets ", 3,
             {3, -1, 2});
}

static void
test_jagged_that_does_not_fit(void)
{
    static const char apart[] =
        "values and offsets of a jagged tensor do not fit together";
    static const char lengths[] =
        "lengths and offsets of a jagged tensor do not fit together";
    static const char nothing[] = "a jagged tensor has no values or no offsets";
#define NO_JAGGED(dict, sentence)                                                      \
    REFUSED(BAD_JAGGED(dict), PSD_TENSOR, sentence, "_rebuild_from_type_v2", false, 0, \
            0)
    NO_JAGGED("", nothing);
    NO_JAGGED(VALUES_ARE(ROWS) OFFSETS_ARE(OFFSETS) "Vlengths\n" OFFSETS, lengths);
    NO_JAGGED(VALUES_ARE(ROWS) OFFSETS_ARE(OFFSETS) "Vlengths\n" ROWS, lengths);
    NO_JAGGED(VALUES_ARE(ROWS), nothing);
    NO_JAGGED(OFFSETS_ARE(OFFSETS), nothing);
    NO_JAGGED(VALUES_ARE(ROWS) "C\x07"
                               "offsets" OFFSETS,
              nothing);
    NO_JAGGED(VALUES_ARE("N") OFFSETS_ARE(OFFSETS),
              "a part of a tensor is not a dense tensor");
    NO_JAGGED(VALUES_ARE(ROWS) OFFSETS_ARE("N"),
              "a part of a tensor is not a dense tensor");
    NO_JAGGED(VALUES_ARE(ROWS) OFFSETS_ARE(OFFSETS) "Vlengths\nI1\n",
              "a part of a tensor is not a dense tensor");
    NO_JAGGED(VALUES_ARE(ROWS) OFFSETS_ARE(ROWS), apart);
    NO_JAGGED(VALUES_ARE(ROWS) OFFSETS_ARE(FLOATS("o", "4", ONE("4"), ONE("1"))),
              apart);
    NO_JAGGED(VALUES_ARE(ROWS)
                  OFFSETS_ARE(LONGS("o", "4", TWO("2", "2"), TWO("2", "1"))),
              apart);
    NO_JAGGED(VALUES_ARE(ROWS) OFFSETS_ARE(LONGS("o", "0", ONE("0"), ONE("1"))), apart);
    NO_JAGGED(VALUES_ARE(FLOATS("v", "1", ")", ")")) OFFSETS_ARE(OFFSETS), apart);
    NO_JAGGED(VALUES_ARE(ROWS) OFFSETS_ARE(OFFSETS) "V_ragged_idx\nI0\n", apart);
    NO_JAGGED(VALUES_ARE(ROWS) OFFSETS_ARE(OFFSETS) "V_ragged_idx\nI3\n", apart);
    NO_JAGGED(VALUES_ARE(ROWS) OFFSETS_ARE(OFFSETS) "V_ragged_idx\nI-1\n", apart);
#undef NO_JAGGED
    REFUSED(NJT "_rebuild_njt\n)^R", PSD_TENSOR,
            "a jagged tensor is not made of a dict", "_rebuild_njt", false, 0, 0);
    REFUSED(NJT "_rebuild_njt\n(Nt^R", PSD_TENSOR,
            "a jagged tensor is not made of a dict", "_rebuild_njt", false, 0, 0);
}

/* ---------------------------------------------------------------- wrappers */

#define KIND "ca.b\nWrapped\n"
#define ABOUT(dtype, size, stride, grad) \
    KIND dtype size stride I("0") LAYOUT("strided") "ctorch\ndevice\n(Vcpu\ntR" grad
#define WRAPPED(state)                                                         \
    "ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_wrapper_" \
    "subclass\n" KIND                                                          \
    "(" ABOUT("ctorch\nfloat32\n", MATRIX, TWO("4", "1"), FALSE_) "t" state "tR"

static void
test_wrappers(void)
{
    COMPOSED(WRAPPED("(V_data\n" VALUES "V_scale\n" ROWS "Vother\nI7\nI5\n" VALUES "d"),
             PSD_LAYOUT_SUBCLASS, PSD_DTYPE_FLOAT32, 0, -1, 8 + 48, "_data _scale ", 2,
             {3, 4});
    COMPOSED(WRAPPED("N"), PSD_LAYOUT_SUBCLASS, PSD_DTYPE_FLOAT32, 0, -1, 0, "", 2,
             {3, 4});
    /* With slots: what stands in both dicts. */
    COMPOSED(WRAPPED("((V_data\n" VALUES "d(V_local\n" ROWS "dt"), PSD_LAYOUT_SUBCLASS,
             PSD_DTYPE_FLOAT32, 0, -1, 8 + 48, "_data _local ", 2, {3, 4});
    COMPOSED(WRAPPED("(N(V_local\n" ROWS "dt"), PSD_LAYOUT_SUBCLASS, PSD_DTYPE_FLOAT32,
             0, -1, 48, "_local ", 2, {3, 4});
    /* A Parameter of one, by a word in its attributes. */
    COMPOSED(WRAPPED("(V_is_param\nI01\nV_data\n" VALUES "d"), PSD_LAYOUT_SUBCLASS,
             PSD_DTYPE_FLOAT32, PSD_TENSOR_PARAMETER, -1, 8, "_data ", 2, {3, 4});
    /* A wrapper in a wrapper: a part may be any tensor. */
    COMPOSED(WRAPPED("(V_inner\n" WRAPPED("(V_data\n" VALUES "d") "d"),
             PSD_LAYOUT_SUBCLASS, PSD_DTYPE_FLOAT32, 0, -1, 8, "_inner ", 2, {3, 4});
    /* Without attributes that could hold anything. */
    COMPOSED(CALL("_rebuild_wrapper_subclass",
                  ABOUT("ctorch\nint8\n", MATRIX, TWO("4", "1"), TRUE_)),
             PSD_LAYOUT_SUBCLASS, PSD_DTYPE_INT8, PSD_TENSOR_REQUIRES_GRAD, -1, 0, "",
             2, {3, 4});
}

static void
test_wrappers_that_are_none(void)
{
#define NO_WRAPPER(about, sentence)                                        \
    REFUSED(BAD("_rebuild_wrapper_subclass", about), PSD_TENSOR, sentence, \
            "_rebuild_wrapper_subclass", false, 0, 0)
    NO_WRAPPER(KIND, "a tensor subclass has wrong arguments");
    NO_WRAPPER(ABOUT("ctorch\nfloat32\n", MATRIX, TWO("4", "1"), "N"),
               "a tensor subclass has wrong arguments");
    NO_WRAPPER(ABOUT("N", MATRIX, TWO("4", "1"), FALSE_),
               "a tensor subclass without a class or a dtype");
    NO_WRAPPER("N"
               "ctorch\nfloat32\n" MATRIX MATRIX "NNN" FALSE_,
               "a tensor subclass without a class or a dtype");
    NO_WRAPPER(ABOUT("ctorch\nfloat32\n", "N", TWO("4", "1"), FALSE_),
               "a tensor's size or stride is not a tuple");
    NO_WRAPPER(ABOUT("ctorch\nfloat32\n", MATRIX, ONE("1"), FALSE_),
               "a tensor has not as many strides as sizes");
    NO_WRAPPER(
        ABOUT("ctorch\nfloat32\n", TWO("4294967296", "4294967296"), MATRIX, FALSE_),
        "a tensor's number of elements overflows");
#undef NO_WRAPPER
}

/* No more parts are taken than torch writes; a dict that is larger is not looked at. */
static void
test_wrappers_of_many_parts(void)
{
    for (unsigned count = 63; count <= 65; count++) {
        psd_buffer b;
        check_heap heap = {0};
        psd_buffer_init(&b, check_alloc(&heap));
        psd_span before = PSD_LITERAL(
            VALUES "q\x01"
                   "0ctorch._tensor\n_rebuild_from_type_v2\n(ctorch."
                   "_utils\n_rebuild_wrapper_subclass\n" KIND
                   "(" ABOUT("ctorch\nfloat32\n", MATRIX, TWO("4", "1"), FALSE_) "t((");
        psd_put_span(&b, before);
        for (unsigned i = 0; i < count; i++) {
            char text[16];
            psd_put(&b, text, (size_t)snprintf(text, sizeof text, "V%u\nh\x01", i));
        }
        psd_span after = PSD_LITERAL("d(Vz\nh\x01"
                                     "dttR.");
        psd_put_span(&b, after);
        modelling m;
        model(&m, psd_buffer_span(&b));
        CHECK(m.status == PSD_OK);
        const psd_tensor *t = &m.model.tensors[root_of(&m)->as.index];
        CHECK_UINT(t->more.composite->count, count == 65 ? 1 : count < 64 ? 64 : 64);
        CHECK_UINT(t->more.composite->nbytes, 8u * t->more.composite->count);
        finish_model(&m);
        psd_buffer_clear(&b);
    }
}

/* One part, told of so often that the bytes of all do not fit into 64 bits. */
static void
test_parts_of_too_many_bytes(void)
{
#define HUGE_PART \
    V2(STORAGE("ByteStorage", "h", "1") I("0") ONE("9223372036854775807") ONE("0"))
    COMPOSED(WRAPPED("(V_a\n" HUGE_PART "V_b\n" HUGE_PART "d"), PSD_LAYOUT_SUBCLASS,
             PSD_DTYPE_FLOAT32, 0, -1, UINT64_MAX - 1, "_a _b ", 2, {3, 4});
    COMPOSED(WRAPPED("(V_a\n" HUGE_PART "V_b\n" HUGE_PART "V_c\n" HUGE_PART "d"),
             PSD_LAYOUT_SUBCLASS, PSD_DTYPE_FLOAT32, 0, -1, UINT64_MAX, "_a _b _c ", 2,
             {3, 4});
#undef HUGE_PART
}

/* ---------------------------------------------------------------- of composites */

#define MATRIX_COO SPARSE(LAYOUT("sparse_coo"), INDICES VALUES MATRIX)

static void
test_parameters_and_devices_of_composites(void)
{
    COMPOSED(CALL("_rebuild_parameter", MATRIX_COO TRUE_ HOOKS), PSD_LAYOUT_SPARSE_COO,
             PSD_DTYPE_FLOAT32, PSD_TENSOR_PARAMETER | PSD_TENSOR_REQUIRES_GRAD, -1, 40,
             COO_PARTS, 2, {3, 4});
    COMPOSED(CALL("_rebuild_parameter", MATRIX_COO FALSE_ HOOKS), PSD_LAYOUT_SPARSE_COO,
             PSD_DTYPE_FLOAT32, PSD_TENSOR_PARAMETER, -1, 40, COO_PARTS, 2, {3, 4});
    /* A state would change what is complete. */
    REFUSED("ctorch._utils\n_rebuild_sparse_tensor\n(" LAYOUT("sparse_coo")
                TUPLE(INDICES VALUES MATRIX) "t^RNb",
            PSD_TENSOR, "a tensor that is complete is given a state",
            "_rebuild_sparse_tensor", false, 0, 0);
}

/* ---------------------------------------------------------------- memory */

#define OF_ALL                                                            \
    "(" MATRIX_COO SPARSE(LAYOUT("sparse_csr"), CROW PLAIN VALUES MATRIX) \
        NESTED(BUFFER SIZES SIZES STARTS)                                 \
            AS_JAGGED(VALUES_ARE(ROWS) OFFSETS_ARE(OFFSETS))              \
                WRAPPED("(V_data\n" VALUES "d") "t."

static void
test_every_failing_request(void)
{
    check_every_failing_request(PSD_LITERAL(OF_ALL));
}

static void
test_every_failing_page(void)
{
    check_every_failing_page(PSD_LITERAL(MATRIX_COO "."));
    check_every_failing_page(PSD_LITERAL(NESTED(BUFFER SIZES SIZES STARTS) "."));
    check_every_failing_page(PSD_LITERAL(WRAPPED("(V_data\n" VALUES "d") "."));
}

int
main(void)
{
    RUN(test_names_of_layouts);
    RUN(test_coo);
    RUN(test_coo_as_torchscript_writes_it);
    RUN(test_coo_that_does_not_fit);
    RUN(test_csr_and_csc);
    RUN(test_bsr_and_bsc);
    RUN(test_compressed_that_do_not_fit);
    RUN(test_layouts_that_are_none);
    RUN(test_nested);
    RUN(test_jagged);
    RUN(test_jagged_that_does_not_fit);
    RUN(test_wrappers);
    RUN(test_wrappers_that_are_none);
    RUN(test_wrappers_of_many_parts);
    RUN(test_parts_of_too_many_bytes);
    RUN(test_parameters_and_devices_of_composites);
    RUN(test_every_failing_request);
    RUN(test_every_failing_page);
    return check_report();
}
