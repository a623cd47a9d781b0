/* SPDX-License-Identifier: Apache-2.0
 *
 * The names that a pickle holds, for those who want to know before they load.
 */
#include "py_module.h"

/* What is done with each value, by number; NULL without memory. */
static uint8_t *
uses_of(const psd_pool *pool)
{
    uint8_t *uses = calloc((size_t)pool->count + 1, 1);
    if (uses != NULL) {
        psd_find_uses(pool, uses);
    }
    return uses;
}

/* -------------------------------------------------------------------- globals */

/* The row of one name: (module, name, position, called), and passed if wanted. */
static PyObject *
row_of(PyObject *key, PyObject *position, unsigned uses, bool with_passed)
{
    PyObject *module = PyTuple_GetItem(key, 0), *name = PyTuple_GetItem(key, 1);
    PyObject *called = uses & PSD_USED_CALLED ? Py_True : Py_False;
    PyObject *passed = uses & PSD_USED_PASSED ? Py_True : Py_False;
    return with_passed ? PyTuple_Pack(5, module, name, position, called, passed)
                       : PyTuple_Pack(4, module, name, position, called);
}

/* What a row says is done with its name. */
static unsigned
uses_in(PyObject *row, bool with_passed)
{
    unsigned uses = PyTuple_GetItem(row, 3) == Py_True ? PSD_USED_CALLED : 0;
    if (with_passed && PyTuple_GetItem(row, 4) == Py_True) {
        uses |= PSD_USED_PASSED;
    }
    return uses;
}

/* Put one global into the dict {(module, name): row}. */
static bool
add_global(PyObject *dict, const psd_global *global, uint64_t base, unsigned uses,
           bool with_passed)
{
    PyObject *key = py_global_key(global), *position = NULL, *row = NULL;
    bool added = false;
    PyObject *known = key == NULL ? NULL : PyDict_GetItemWithError(dict, key);
    if (known != NULL) { /* borrowed */
        unsigned before = uses_in(known, with_passed);
        added = (before | uses) == before;
        position = Py_NewRef(PyTuple_GetItem(known, 2));
        uses |= before;
    }
    else if (key != NULL && PyErr_Occurred() == NULL) {
        position = PyLong_FromUnsignedLongLong(base + global->position);
    }
    if (!added && position != NULL) {
        row = row_of(key, position, uses, with_passed);
        added = row != NULL && PyDict_SetItem(dict, key, row) == 0;
    }
    Py_XDECREF(row);
    Py_XDECREF(position);
    Py_XDECREF(key);
    return added;
}

static PyObject *
globals_of(const psd_pool *pool, const uint8_t *uses, uint64_t base, bool unknown_only,
           bool with_passed)
{
    PyObject *dict = PyDict_New();
    for (psd_ref ref = 1; dict != NULL && ref <= pool->count; ref++) {
        const psd_value *value = psd_value_at(pool, ref);
        bool called = (uses[ref] & PSD_USED_CALLED) != 0;
        if (value->kind != PSD_KIND_GLOBAL ||
            (unknown_only && psd_torch_is_plain(value->as.global, called))) {
            continue;
        }
        unsigned told = with_passed ? uses[ref] : uses[ref] & PSD_USED_CALLED;
        if (!add_global(dict, value->as.global, base, told, with_passed)) {
            Py_CLEAR(dict);
        }
    }
    PyObject *list = dict == NULL ? NULL : PyDict_Values(dict);
    Py_XDECREF(dict);
    return list;
}

/* Is there a name that is not plain, or would not be if it were called?  An ordinary
 * state_dict has none, and what is done with its names need not be found out. */
static bool
any_unknown(const psd_pool *pool)
{
    const psd_global *g = pool->newest_global;
    while (g != NULL && psd_torch_is_plain(g, true)) {
        g = g->previous;
    }
    return g != NULL;
}

PyObject *
py_globals(const psd_pool *pool, uint64_t base, bool unknown_only)
{
    if (unknown_only && !any_unknown(pool)) {
        return PyList_New(0);
    }
    uint8_t *uses = uses_of(pool);
    if (uses == NULL) {
        return PyErr_NoMemory();
    }
    PyObject *list = globals_of(pool, uses, base, unknown_only, false);
    free(uses);
    return list;
}

/* ------------------------------------------------------------------- scan_pickle */

/* What the run of the machine gave, and how. */
typedef struct {
    psd_status status;
    psd_error err;
    psd_pickle pickle;
    size_t walked;
    uint32_t depth; /* of the root, in values */
} run_result;

static PyObject *
result_of(py_look *look, const uint8_t *uses, const run_result *run)
{
    PyObject *error =
        run->status == PSD_OK ? Py_NewRef(Py_None) : py_exception(&run->err);
    PyObject *globals =
        error == NULL ? NULL : globals_of(look->pool, uses, 0, false, true);
    PyObject *calls = NULL, *result = NULL;
    if (globals != NULL && py_look_find(look)) {
        calls = PyDict_Items(look->calls);
    }
    if (calls != NULL) {
        result = Py_BuildValue("(OOnOOnII)", globals, look->nested,
                               (Py_ssize_t)run->pickle.size, error, calls,
                               (Py_ssize_t)run->walked, (unsigned)run->depth,
                               (unsigned)run->pickle.left);
    }
    Py_XDECREF(calls);
    Py_XDECREF(globals);
    Py_XDECREF(error);
    return result;
}

static PyObject *
look_into(const psd_pool *pool, psd_span program, PyObject *watched,
          const run_result *run)
{
    if (run->status == PSD_NO_MEMORY) {
        return py_raise(
            &run->err); /* tells nothing of the pickle: no finding, a failure */
    }
    py_look look;
    PyObject *result = NULL;
    uint8_t *uses = NULL;
    if (py_look_init(&look, pool, program, watched)) {
        uses = uses_of(pool);
        result = uses == NULL ? PyErr_NoMemory() : result_of(&look, uses, run);
    }
    free(uses);
    py_look_clear(&look);
    return result;
}

static void
follow(psd_span program, const psd_limits *limits, psd_hash_key key, psd_pool *pool,
       run_result *run)
{
    run->status = psd_pickle_follow(program, 0, limits, key, pool, &run->pickle,
                                    &run->walked, &run->err);
    psd_ref root = run->pickle.root;
    if (root != 0 && run->status != PSD_NO_MEMORY &&
        !psd_find_depth(pool, root, py_page_alloc(), &run->depth)) {
        run->status = psd_fail(&run->err, PSD_NO_MEMORY, PSD_NOWHERE, "out of memory");
    }
}

PyObject *
py_scan_pickle(PyObject *module, PyObject *args)
{
    PyObject *buffer, *limit_dict = Py_None, *watched = Py_None;
    psd_limits limits;
    Py_buffer view;
    if (!PyArg_ParseTuple(args, "O|OO:scan_pickle", &buffer, &limit_dict, &watched) ||
        !py_limits(limit_dict, &limits) ||
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    psd_arena arena;
    psd_pool pool;
    run_result run = {.walked = 0};
    psd_arena_init(&arena, py_page_alloc());
    psd_pool_init(&pool, &arena, limits.values);
    psd_span program = {view.buf, (size_t)view.len};
    psd_hash_key key = py_state_of(module)->key;
    Py_BEGIN_ALLOW_THREADS
    follow(program, &limits, key, &pool, &run);
    Py_END_ALLOW_THREADS
    PyObject *result = look_into(&pool, program, watched, &run);
    psd_pool_clear(&pool);
    psd_arena_clear(&arena);
    PyBuffer_Release(&view);
    return result;
}
