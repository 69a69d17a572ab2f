/* Malmoi's native decoder: the plain C interface.
 *
 * One call, malmoi_step, runs the network once for any mix of rows. A row is one token of one sequence at one position,
 * so reading a prompt, adding a token to each of twenty conversations and checking a guessed continuation are all the
 * same call. Keys and values lie in blocks of MALMOI_BLOCK positions; which blocks belong to a sequence is said by the
 * caller's block table, so that sequences can share the blocks of a common beginning.
 *
 * Nothing here throws or aborts. Every function returns a status (0: done); malmoi_message tells, for the calling
 * thread, what was wrong with its last call. Every size that is passed is checked before it is used.
 */
#ifndef MALMOI_H
#define MALMOI_H

#include <stdint.h>

#if defined(_WIN32)
#define MALMOI_API __declspec(dllexport)
#else
#define MALMOI_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define MALMOI_VERSION 1 /* of this interface: the structs below carry it */
#define MALMOI_BLOCK 32  /* positions in a block of the cache */

typedef enum malmoi_status {
  MALMOI_OK = 0,
  MALMOI_BAD_MODEL = 1,     /* hyperparameters or tensors that make no model */
  MALMOI_BAD_BATCH = 2,     /* rows, positions or block tables that make no step */
  MALMOI_NOT_FINITE = 3,    /* NaN or infinity in weights, activations or logits */
  MALMOI_NO_MEMORY = 4,
  MALMOI_UNSUPPORTED = 5,   /* this CPU lacks the instructions that were asked for */
  MALMOI_INTERNAL = 6
} malmoi_status;

/* How the numbers of a matrix are stored; each layout is the one that its kernel reads. N outputs, K inputs; both are
 * padded (N to 16, K to `group`), with zeros.
 *   FLOAT32   [N/16][K][16]            float
 *   BFLOAT16  [N/16][K/2][16][2]       bfloat16
 *   INT8      [N/16][K/4][16][4]       weight + 128 as a byte; scales [N] float
 *   INT4      [N/16][K/8][16][4]       two weights + 8 a byte, the lower half k = 8s + j, the upper k = 8s + 4 + j;
 *                                      scales [N/16][K/64][16] half
 * A matrix of experts is E of them, one after another. A vector (norm, bias) is FLOAT32 of its plain size. */
typedef enum malmoi_kind { MALMOI_FLOAT32 = 0, MALMOI_BFLOAT16 = 1, MALMOI_INT8 = 2, MALMOI_INT4 = 3 } malmoi_kind;

typedef enum malmoi_role {
  MALMOI_EMBEDDING = 0, MALMOI_HEAD, MALMOI_POSITIONS, MALMOI_FREQUENCIES, MALMOI_FINAL_NORM, MALMOI_FINAL_NORM_BIAS,
  MALMOI_FIRST_NORM, MALMOI_FIRST_NORM_BIAS, MALMOI_SECOND_NORM, MALMOI_SECOND_NORM_BIAS,
  MALMOI_QUERY, MALMOI_KEY, MALMOI_VALUE, MALMOI_OUTPUT,
  MALMOI_QUERY_BIAS, MALMOI_KEY_BIAS, MALMOI_VALUE_BIAS, MALMOI_OUTPUT_BIAS,
  MALMOI_QUERY_NORM, MALMOI_KEY_NORM, MALMOI_SINKS, MALMOI_ROUTER, MALMOI_ROUTER_BIAS,
  MALMOI_GATE, MALMOI_UP, MALMOI_DOWN, MALMOI_GATE_BIAS, MALMOI_UP_BIAS, MALMOI_DOWN_BIAS,
  MALMOI_ROLES
} malmoi_role;

typedef struct malmoi_tensor {
  int32_t role;
  int32_t layer; /* -1 outside the layers */
  int32_t kind;
  int32_t reserved;
  const void *data;
  uint64_t bytes;
  const void *scales; /* NULL where the kind has none */
  uint64_t scale_bytes;
} malmoi_tensor;

typedef enum malmoi_act { MALMOI_SILU = 0, MALMOI_GELU = 1, MALMOI_GELU_TANH = 2, MALMOI_RELU = 3 } malmoi_act;

typedef struct malmoi_shape {
  uint32_t version; /* MALMOI_VERSION */
  uint32_t size;    /* sizeof(malmoi_shape) */
  int64_t vocabulary, width, layers, heads, shared_heads, head_size, hidden; /* hidden: of one feed-forward network */
  int64_t positions;                                                        /* the context's length */
  int64_t experts, experts_per_token;                                       /* 0: dense */
  int32_t rotary, layer_norm, norm_affine, post_norm, qk_norm, gated, activation, attention_bias, mlp_bias, router_bias,
      sinks, tied;
  float norm_eps;
  float rotary_factor; /* what turned queries and keys are multiplied by */
  float limit;         /* of gpt-oss's gate; 0: the plain gate */
  float reserved;
  const int64_t *windows; /* of each layer: how many positions it sees, itself included; 0: all */
} malmoi_shape;

typedef struct malmoi_model malmoi_model;
typedef struct malmoi_cache malmoi_cache;

typedef struct malmoi_batch {
  uint32_t version, size;
  int64_t rows, sequences, table_width, wanted;
  const int32_t *tokens, *positions, *sequence; /* [rows]; the rows of a sequence in ascending position */
  const int32_t *tables;                        /* [sequences][table_width] block numbers */
  const int32_t *wanted_rows;                   /* [wanted] whose logits are asked for */
  float *logits;                                /* [wanted][vocabulary] */
  int64_t logits_size;                          /* how many floats fit there */
  int32_t threads, reserved;
} malmoi_batch;

MALMOI_API int32_t malmoi_version(void);
MALMOI_API const char *malmoi_message(void);
/* The names of the instruction sets that were built in and that this CPU has, best first, separated by spaces. */
MALMOI_API const char *malmoi_instructions(void);
/* `instructions`: a name, or NULL for the best. The tensors' memory is read in place and must outlive the model, except
 * for vectors and int8 scales, which are copied. Matrices begin at a multiple of 64 bytes. */
MALMOI_API int32_t malmoi_open(const malmoi_shape *shape, const malmoi_tensor *tensors, int64_t count,
                               const char *instructions, malmoi_model **model);
MALMOI_API void malmoi_close(malmoi_model *model);
MALMOI_API const char *malmoi_instructions_of(const malmoi_model *model);
MALMOI_API int32_t malmoi_cache_open(const malmoi_model *model, int64_t blocks, malmoi_cache **cache);
MALMOI_API void malmoi_cache_close(malmoi_cache *cache);
MALMOI_API int64_t malmoi_cache_bytes(const malmoi_model *model, int64_t blocks);
MALMOI_API int32_t malmoi_cache_copy(malmoi_cache *cache, int64_t source, int64_t target);
MALMOI_API int32_t malmoi_step(malmoi_model *model, malmoi_cache *cache, const malmoi_batch *batch);

#ifdef __cplusplus
}
#endif
#endif
