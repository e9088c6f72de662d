#include "models/training.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

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

Features encode(const Clip& clip, const Batch& batch) {
  return {l2_normalize(clip.encode_image(batch.images)),
          l2_normalize(clip.encode_text(batch.tokens))};
}

/// Rows of all micro-batches, computed without a tape; leaves, so that the loss leaves its gradient
/// there.
Features encode_without_tape(const Clip& clip, const std::vector<Batch>& micro_batches) {
  TapePause pause;
  Tensor image, text;
  int64_t done = 0;
  for (const Batch& batch : micro_batches) {
    const Features part = encode(clip, batch);
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
  const auto [image_features, text_features] = encode(clip, batch);                        // [N, E]
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
    const Features all = encode_without_tape(model.clip, micro_batches);
    {
      Tape tape;
      const Variable loss = clip_loss(all.image, all.text, model.clip.logit_scale, comm);
      result = {loss, all.image, all.text};
      tape.backward(loss, ready);
    }
    int64_t begin = 0;
    for (const Batch& batch : micro_batches) {
      Tape tape;
      const Features part = encode(model.clip, batch);
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
  const Contrast result = contrast_and_gradients(model, micro_batches, comm);
  Tensor loss = result.loss.value();
  comm.all_reduce_sum(loss);
  comm.wait();
  const StepReport report = optimizer.step(lr);
  Tensor logit_scale = model.clip.logit_scale.value();
  logit_scale.backend().clamp(logit_scale, 0.0, std::log(100.0));
  return {loss.item(), report.gradient_norm, report.skipped, result.image_features.value(),
          result.text_features.value()};
}

namespace {

/// The numbers of all ranks, in their order; as many on each.
template <class T>
std::vector<T> gathered(const std::vector<T>& mine, Communicator& ranks) {
  const auto count = static_cast<int64_t>(mine.size());
  Tensor all = Tensor::empty(cpu_backend(), {count * ranks.size()}, kDTypeOf<T>);
  ranks.all_gather(all, Tensor::from(cpu_backend(), {count}, mine));
  ranks.wait();
  return all.to_vector<T>();
}

}  // namespace

Captions all_captions(const Captions& mine, Communicator& ranks) {
  if (ranks.size() == 1) return mine;
  constexpr int32_t kEnd = -1;  // no token
  size_t longest = 0;
  for (const auto& caption : mine) longest = std::max(longest, caption.size());
  for (const int32_t other : gathered<int32_t>({static_cast<int32_t>(longest)}, ranks))
    longest = std::max(longest, static_cast<size_t>(other));
  std::vector<int32_t> padded;
  for (const auto& caption : mine) {
    padded.insert(padded.end(), caption.begin(), caption.end());
    padded.insert(padded.end(), longest - caption.size(), kEnd);
  }
  const std::vector<int32_t> tokens = gathered(padded, ranks);
  Captions all;
  for (auto row = tokens.begin(); row < tokens.end(); row += static_cast<std::ptrdiff_t>(longest))
    all.emplace_back(row, std::find(row, row + static_cast<std::ptrdiff_t>(longest), kEnd));
  return all;
}

double loss_floor(const Captions& captions) {
  std::map<std::vector<int32_t>, int64_t> copies;
  for (const auto& caption : captions) ++copies[caption];
  double total = 0;
  for (const auto& [caption, count] : copies)
    total += static_cast<double>(count) * std::log(static_cast<double>(count));
  return total / static_cast<double>(captions.size());
}

double in_batch_top1(const Tensor& image_features, const Tensor& text_features,
                     const Captions& captions, Communicator& ranks) {
  constexpr int64_t kRows = 256;  // rows of similarities in memory at once
  const int64_t rows = image_features.size(0), columns = rows * ranks.size();
  const Tensor texts = Tensor::from(text_features.backend(), {columns, text_features.size(1)},
                                    gathered(text_features.to_vector<float>(), ranks));
  const auto own = captions.begin() + ranks.rank() * rows;
  int32_t right = 0;
  for (int64_t begin = 0; begin < rows; begin += kRows) {
    const Tensor part = image_features.slice(begin, std::min(begin + kRows, rows));
    const auto similarity = cosines(part, texts).to_vector<float>();
    for (int64_t i = 0; i < part.size(0); ++i) {
      const float* row = similarity.data() + i * columns;
      const auto nearest = std::max_element(row, row + columns) - row;
      right += captions[static_cast<size_t>(nearest)] == own[begin + i] ? 1 : 0;
    }
  }
  const std::vector<int32_t> parts = gathered<int32_t>({right}, ranks);
  return std::accumulate(parts.begin(), parts.end(), 0.0) / static_cast<double>(columns);
}

}  // namespace clip
