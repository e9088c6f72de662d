#include "models/training.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "models/features.h"

namespace clip {

Batch to_device(const HostBatch& batch, int64_t image_size, Backend& backend) {
  const int64_t count = static_cast<int64_t>(batch.tokens.size());
  return {Tensor::from<uint8_t>(backend, {count, image_size, image_size, 3}, batch.images),
          pack_tokens(batch.tokens, backend)};
}

Contrast contrast(const Clip& clip, const Batch& batch, Communicator& comm) {
  const Variable image_features = l2_normalize(clip.encode_image(batch.images));           // [N, E]
  const Variable text_features = l2_normalize(clip.encode_text(batch.tokens));             // [N, E]
  const Variable loss = clip_loss(image_features, text_features, clip.logit_scale, comm);  // []
  return {loss, image_features, text_features};
}

StepMetrics train_step(ClipModel& model, AdamW& optimizer, const Batch& batch, double lr,
                       Communicator& comm) {
  Tape tape;
  const Contrast result = contrast(model.clip, batch, comm);
  tape.backward(result.loss);
  model.parameters.settle_gradients();
  comm.all_reduce_sum(model.parameters.gradients());
  Tensor loss = result.loss.value();
  comm.all_reduce_sum(loss);
  comm.wait();
  const StepReport report = optimizer.step(lr);
  Tensor logit_scale = model.clip.logit_scale.value();
  logit_scale.backend().clamp(logit_scale, 0.0, std::log(100.0));
  return {loss.item(), report.gradient_norm, report.skipped, result.image_features.value(),
          result.text_features.value()};
}

double loss_floor(const std::vector<std::vector<int32_t>>& captions) {
  std::map<std::vector<int32_t>, int64_t> copies;
  for (const auto& caption : captions) ++copies[caption];
  double total = 0;
  for (const auto& [caption, count] : copies)
    total += static_cast<double>(count) * std::log(static_cast<double>(count));
  return total / static_cast<double>(captions.size());
}

double in_batch_top1(const Tensor& image_features, const Tensor& text_features,
                     const std::vector<std::vector<int32_t>>& captions) {
  const auto similarity = cosines(image_features, text_features).to_vector<float>();
  const size_t count = captions.size();
  int64_t right = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto row = similarity.begin() + static_cast<std::ptrdiff_t>(i * count);
    const auto nearest = std::max_element(row, row + static_cast<std::ptrdiff_t>(count)) - row;
    right += captions[static_cast<size_t>(nearest)] == captions[i] ? 1 : 0;
  }
  return static_cast<double>(right) / static_cast<double>(count);
}

}  // namespace clip
