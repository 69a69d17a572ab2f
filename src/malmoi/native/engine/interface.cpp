// The C interface: nothing passes it but a status and a sentence.
#include <memory>

#include "model.h"

namespace {

thread_local std::string message;

template <class Work> int32_t guarded(Work work) {
  try {
    work();
    return MALMOI_OK;
  } catch (const malmoi::Failure &failure) {
    message = failure.what();
    return failure.status;
  } catch (const std::bad_alloc &) {
    message = "there is not enough memory";
    return MALMOI_NO_MEMORY;
  } catch (const std::exception &error) {
    message = error.what();
    return MALMOI_INTERNAL;
  }
}

[[noreturn]] void missing(malmoi_status status) { throw malmoi::Failure(status, "an argument is missing"); }

}  // namespace

int32_t malmoi_version(void) { return MALMOI_VERSION; }
const char *malmoi_message(void) { return message.c_str(); }
const char *malmoi_instructions(void) { return malmoi::kernel_names(); }

int32_t malmoi_open(const malmoi_shape *shape, const malmoi_tensor *tensors, int64_t count, const char *instructions,
                    malmoi_model **model) {
  return guarded([&] {
    if (!shape || !model) missing(MALMOI_BAD_MODEL);
    auto made = std::make_unique<malmoi_model>();
    made->kernels = malmoi::kernels_named(instructions);
    if (!made->kernels)
      throw malmoi::Failure(MALMOI_UNSUPPORTED, "this CPU and this build do not have '" + std::string(instructions) +
                                                    "'; they have: " + malmoi::kernel_names());
    malmoi::read_model(*made, *shape, tensors, count);
    *model = made.release();
  });
}

void malmoi_close(malmoi_model *model) { delete model; }

const char *malmoi_instructions_of(const malmoi_model *model) { return model ? model->kernels->name : ""; }

int64_t malmoi_cache_bytes(const malmoi_model *model, int64_t blocks) {
  if (!model || blocks < 0 || blocks > 100'000'000) return -1;
  const int64_t numbers = static_cast<int64_t>(model->block_halves()) * model->shape.layers;  // at most 1e14
  return blocks > 0 && numbers > INT64_MAX / 2 / blocks ? -1 : 2 * numbers * blocks;
}

int32_t malmoi_cache_open(const malmoi_model *model, int64_t blocks, malmoi_cache **cache) {
  return guarded([&] {
    if (!model || !cache) missing(MALMOI_BAD_BATCH);
    if (blocks < 1 || malmoi_cache_bytes(model, blocks) < 0)
      throw malmoi::Failure(MALMOI_BAD_BATCH, "a cache of " + std::to_string(blocks) + " blocks cannot be made");
    auto made = std::make_unique<malmoi_cache>();
    made->layers = model->shape.layers, made->blocks = blocks;
    made->head_halves = model->head_halves(), made->block_halves = model->block_halves();
    made->memory = malmoi::Array<uint16_t>(static_cast<size_t>(malmoi_cache_bytes(model, blocks)) / 2);
    *cache = made.release();
  });
}

void malmoi_cache_close(malmoi_cache *cache) { delete cache; }

int32_t malmoi_cache_copy(malmoi_cache *cache, int64_t source, int64_t target) {
  return guarded([&] {
    if (!cache) missing(MALMOI_BAD_BATCH);
    for (int64_t block : {source, target})
      if (block < 0 || block >= cache->blocks)
        throw malmoi::Failure(MALMOI_BAD_BATCH, "block " + std::to_string(block) + " is not one of the cache's " +
                                                    std::to_string(cache->blocks));
    std::memmove(cache->block(0, target), cache->block(0, source), cache->stride() * sizeof(uint16_t));
  });
}

int32_t malmoi_step(malmoi_model *model, malmoi_cache *cache, const malmoi_batch *batch) {
  return guarded([&] {
    if (!model || !cache || !batch) missing(MALMOI_BAD_BATCH);
    std::lock_guard<std::mutex> alone(model->busy);
    model->leave_forked_team();
    malmoi::step(*model, *cache, *batch, *model->team, model->scratch);
  });
}
