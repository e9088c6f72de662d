#include "models/training.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "autograd/gradient_reducer.h"
#include "models/features.h"

namespace clip {

std::vector<Batch> to_device(const HostBatch& batch, int64_t image_size, Backend& backend,
                             int64_t parts) {
  const int64_t rows = static_cast<int64_t>(batch.tokens.size()) / parts,
                bytes = image_size * image_size * 3;
  CLIP_CHECK(rows * parts == static_cast<int64_t>(batch.tokens.size()), "[to_device] a batch of ",
             batch.tokens.size(), " cannot be cut into ", parts, " equal micro-batches");
  std::vector<Batch> micro_batches;
  for (int64_t part = 0; part < parts; ++part) {
    const auto first = batch.tokens.begin() + part * rows;
    micro_batches.push_back(
        {Tensor::from_bytes(backend, {rows, image_size, image_size, 3}, DType::kU8,
                            batch.images.data() + part * rows * bytes),
         pack_tokens({first, first + rows}, backend)});
  }
  return micro_batches;
}

namespace {

struct Features {
  Variable image, text;  // [N, E], unit rows
};

using Running = BatchNormMode::Running;

/// In training: a BatchNorm normalises by the batch, all ranks' rows of it.
Features encode(const Clip& clip, const Batch& batch, Communicator& comm, Running running) {
  TowerOptions options = clip.towers;
  options.batch_norm = {&comm, running};
  return {l2_normalize(clip.encode_image(batch.images, options)),
          l2_normalize(clip.encode_text(batch.tokens))};
}

/// Rows of all micro-batches, computed without a tape; leaves, so that the loss leaves its gradient
/// there. This pass moves the running statistics, once for each micro-batch.
Features encode_without_tape(const Clip& clip, const std::vector<Batch>& micro_batches,
                             Communicator& comm) {
  TapePause pause;
  Tensor image, text;
  int64_t done = 0;
  for (const Batch& batch : micro_batches) {
    const Features part = encode(clip, batch, comm, Running::kMoved);
    Backend& backend = part.image.backend();
    const int64_t end = done + part.image.size(0);
    if (done == 0) {
      const int64_t parts = static_cast<int64_t>(micro_batches.size());
      image =
          Tensor::empty(backend, part.image.shape().with_first(parts * end), part.image.dtype());
      text = Tensor::like(image);
    }
    Tensor image_rows = image.slice(done, end), text_rows = text.slice(done, end);
    backend.copy(image_rows, part.image.value());
    backend.copy(text_rows, part.text.value());
    done = end;
  }
  return {Variable(image, true), Variable(text, true)};
}

/// Backward of one micro-batch from the gradients of its rows [begin, end).
void backward_of_rows(Tape& tape, const Features& part, const Features& all, int64_t begin,
                      int64_t end, const Tape::Ready& ready) {
  std::vector<Variable> outputs;
  std::vector<Tensor> gradients;
  const auto add = [&](const Variable& output, const Variable& rows) {
    if (!output.requires_grad()) return;  // a locked tower
    outputs.push_back(output);
    gradients.push_back(rows.grad().slice(begin, end));
  };
  add(part.image, all.image);
  add(part.text, all.text);
  tape.backward(outputs, gradients, ready);
}

}  // namespace

Contrast contrast(const Clip& clip, const Batch& batch, Communicator& comm) {
  const auto [image_features, text_features] =
      encode(clip, batch, comm, Running::kMoved);                                          // [N, E]
  const Variable loss = clip_loss(image_features, text_features, clip.logit_scale, comm);  // []
  return {loss, image_features, text_features};
}

Contrast contrast_and_gradients(ClipModel& model, const std::vector<Batch>& micro_batches,
                                Communicator& comm) {
  GradientReducer reducer(model.parameters, comm);
  const Tape::Ready ready = [&](const Variable& leaf) { reducer.ready(leaf); };
  Contrast result;
  if (micro_batches.size() == 1) {
    Tape tape;
    result = contrast(model.clip, micro_batches[0], comm);
    tape.backward(result.loss, ready);
  } else {
    const Features all = encode_without_tape(model.clip, micro_batches, comm);
    {
      Tape tape;
      const Variable loss = clip_loss(all.image, all.text, model.clip.logit_scale, comm);
      result = {loss, all.image, all.text};
      tape.backward(loss, ready);
    }
    int64_t begin = 0;
    for (const Batch& batch : micro_batches) {
      Tape tape;
      const Features part = encode(model.clip, batch, comm, Running::kLeft);
      const int64_t end = begin + part.image.size(0);
      const bool last = &batch == &micro_batches.back();
      backward_of_rows(tape, part, all, begin, end, last ? ready : Tape::Ready());
      begin = end;
    }
  }
  reducer.finish();
  return result;
}

StepMetrics train_step(ClipModel& model, AdamW& optimizer, const std::vector<Batch>& micro_batches,
                       double lr, Communicator& comm) {
  const Tensor running_statistics = model.parameters.buffer_values().clone();
  const Contrast result = contrast_and_gradients(model, micro_batches, comm);
  Tensor loss = result.loss.value();
  comm.all_reduce_sum(loss);
  comm.wait();
  const StepReport report = optimizer.step(lr);
  if (report.skipped) loss.backend().copy(model.parameters.buffer_values(), running_statistics);
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
