#include "models/scale.h"

#include <algorithm>
#include <string>
#include <utility>

#include "autograd/gradient_reducer.h"
#include "models/clip.h"
#include "models/flop.h"

namespace clip {
namespace {

constexpr double kF32Bytes = 4, kI32Bytes = 4;

double real(int64_t value) { return static_cast<double>(value); }

void check_plan(const ClipConfig& config, const ScalePlan& plan) {
  check_countable(config);
  CLIP_CHECK(plan.ranks > 0 && plan.batch_size > 0 && plan.accum_freq > 0 && plan.text_length > 0,
             "[scale] sizes must be positive, got ", plan.ranks, " ranks, batches of ",
             plan.batch_size, ", ", plan.accum_freq, " micro-batches, captions of ",
             plan.text_length);
  CLIP_CHECK(plan.precision == DType::kF32 || plan.precision == DType::kBF16,
             "[scale] the precision must be F32 or BF16, got ", plan.precision);
}

/// The parameters in the order of the flat buffers, without memory.
struct FlatParameter {
  std::string name;
  int64_t end;  ///< element at which it ends, padding included
};

std::vector<FlatParameter> flat_parameters(const ClipConfig& config) {
  ParameterList list;
  Clip(config).collect(list);
  std::vector<FlatParameter> flat;
  int64_t end = 0;
  for (auto parameter = list.parameters().rbegin(); parameter != list.parameters().rend();
       ++parameter) {
    const int64_t size = parameter->variable.shape().numel();
    end += (size + kParameterBlock - 1) / kParameterBlock * kParameterBlock;
    flat.push_back({parameter->name, end});
  }
  return flat;
}

/// The blocks of a tower, for one sequence of T tokens.
struct Tower {
  double width, mlp, heads, tokens;
  int64_t layers;
};

Tower image_tower(const ClipConfig& config) {
  const VisionConfig& v = config.vision;
  return {real(v.width), real(v.mlp_width()), real(v.heads()), real(v.patches() + 1), v.layers};
}

Tower text_tower(const ClipConfig& config, int64_t text_length) {
  const TextConfig& t = config.text;
  return {real(t.width), real(t.mlp_width()), real(t.heads), real(text_length), t.layers};
}

/// Bytes of one sequence, what its features take left out; `number` is that of an activation.
/// Notation: C width, M mlp width, T tokens, H heads. A norm keeps its F32 mean and deviation.
struct TowerMemory {
  double kept = 0;      ///< after the forward pass
  double backward = 0;  ///< at most beyond that
};

/// A block but the last, per token: the stream before and after attention (2 C), both norms (2 C),
/// queries, keys and values (3 C), attention (C), and before and after GELU (2 M). F32: the two
/// norms' statistics, a log-sum-exp per head.
double block_bytes(const Tower& tower, double number) {
  return tower.tokens *
         ((8 * tower.width + 2 * tower.mlp) * number + (4 + tower.heads) * kF32Bytes);
}

/// The last block, per token: stream and norm (2 C), keys and values (2 C); of the pooled row:
/// norm, query, attention, stream, norm (5 C), 2 M; and the final norm (2 C) with its statistics.
double last_block_bytes(const Tower& tower, double number) {
  return tower.tokens * (4 * tower.width * number + 2 * kF32Bytes) +
         (5 * tower.width + 2 * tower.mlp) * number + (2 + tower.heads) * kF32Bytes;
}

TowerMemory tower_memory(const Tower& tower, double number, Activations activations) {
  const double row = tower.tokens * number, blocks = real(tower.layers - 1);
  const double final_norm = 2 * tower.width * number + 2 * kF32Bytes;
  if (activations == Activations::kKept) {
    // Keys' and values' gradients in the last block; when that is freed (4 C), the MLP of the block
    // before has those of its output (C) and of what went into c_proj (M).
    const double mlp = tower.layers > 1 ? tower.mlp - 3 * tower.width : 0;
    return {blocks * block_bytes(tower, number) + last_block_bytes(tower, number) + final_norm,
            row * std::max(2 * tower.width, mlp)};
  }
  // The stream and the branch not yet added to it, of which the first block has none.
  const double inputs = (2 * real(tower.layers) - 1) * tower.width * row;
  const double last = last_block_bytes(tower, number) + 2 * tower.width * row;
  // A whole block again, its output and the gradient of that (2 C), and of what went into c_proj;
  // the last block's inputs (2 C) are freed by then.
  const double whole = block_bytes(tower, number) + tower.mlp * row;
  return {inputs + final_norm, tower.layers > 1 ? std::max(last, whole) : last};
}

/// What precedes the image tower's blocks: patches, tokens before ln_pre, its statistics.
double patch_bytes(const ClipConfig& config, double number) {
  const VisionConfig& v = config.vision;
  const double patches = real(v.patches()), tokens = patches + 1;
  return patches * 3 * real(v.patch_size * v.patch_size) * number +
         tokens * (real(v.width) * number + 2 * kF32Bytes);
}

}  // namespace

void check_countable(const ClipConfig& config) {
  const std::string vision = variation_of(config.vision);
  const std::string what = vision.empty() ? variation_of(config.text) : vision;
  CLIP_CHECK(what.empty(),
             "[scale] what a step costs is counted for OpenAI's transformers, not for ",
             "a model with ", what);
}

StepMemory step_memory(const ClipConfig& config, const ScalePlan& plan) {
  check_plan(config, plan);
  const double parameters = real(flat_parameters(config).back().end);
  const bool rounded = plan.precision == DType::kBF16,
             softmax = config.loss() == LossKind::kSoftmax;
  const double number = real(size_of(plan.precision));
  const double mine = real(plan.rank_pairs()), all = real(plan.global_pairs()),
               width = real(config.embed_dim), pairs = real(plan.batch_size);
  StepMemory memory;
  memory.parameters = memory.gradients = parameters * kF32Bytes;
  memory.moments = 2 * parameters * kF32Bytes;
  memory.rounded_values = rounded ? parameters * number : 0;
  const double pixels = 3 * real(config.vision.image_size * config.vision.image_size);
  memory.batch = mine * (2 * pixels + (2 * real(plan.text_length) + 2) * kI32Bytes);
  memory.features = 4 * mine * width * kF32Bytes;
  // Beside the embeddings: log-sum-exps of all rows; of the rank's, sums and diagonals.
  memory.gathered = (2 * all * width + (softmax ? 2 * all + 5 * mine : 3 * mine)) * kF32Bytes;
  // The softmax takes a tile of the rank's own pairs in both directions.
  const double own_tile = (softmax ? 2 : 1) * std::min(mine, real(kTileColumns));
  memory.tiles = mine * std::max(own_tile, std::min(all - mine, real(kTileColumns))) * kF32Bytes;

  const TowerMemory image = tower_memory(image_tower(config), number, plan.activations);
  const TowerMemory text =
      tower_memory(text_tower(config, plan.text_length), number, plan.activations);
  memory.activations = pairs * (patch_bytes(config, number) + image.kept + text.kept);
  // The text tower goes back first, and its activations are free when the image tower does.
  memory.backward = pairs * std::max(text.backward, image.backward - text.kept);

  const double loss = memory.gathered + memory.tiles;
  const double moving = plan.accum_freq == 1 ? memory.activations + std::max(loss, memory.backward)
                                             : std::max(loss, memory.activations + memory.backward);
  memory.peak = memory.parameters + memory.gradients + memory.moments + memory.rounded_values +
                memory.batch + memory.features + moving;
  return memory;
}

int64_t largest_batch(const ClipConfig& config, ScalePlan plan, double bytes) {
  const auto fits = [&](int64_t batch_size) {
    plan.batch_size = batch_size;
    return step_memory(config, plan).peak <= bytes;
  };
  int64_t least = 0, beyond = 1;
  while (fits(beyond)) least = std::exchange(beyond, 2 * beyond);
  while (beyond - least > 1) {
    const int64_t middle = least + (beyond - least) / 2;
    (fits(middle) ? least : beyond) = middle;
  }
  return least;
}

namespace {

/// The share of the backward pass after which a parameter's gradient is final: text tower first,
/// each from its last block to its first.
double ready_share(const std::string& name, const ClipConfig& config, double text_share) {
  if (name == "logit_scale" || name == "logit_bias") return 0;
  const bool image = is_locked(name, {.image = true});
  const double begin = image ? text_share : 0, length = image ? 1 - text_share : text_share;
  const auto layers = real(image ? config.vision.layers : config.text.layers);
  const std::string blocks = "resblocks.";
  if (const size_t at = name.find(blocks); at != std::string::npos)
    return begin + length * (layers - std::stod(name.substr(at + blocks.size()))) / layers;
  const bool after_blocks = name.ends_with("proj") || name.ends_with("projection") ||
                            name.find("ln_post") != std::string::npos ||
                            name.find("ln_final") != std::string::npos;
  return after_blocks ? begin : begin + length;
}

/// When the last sum arrives, from the start of a backward pass of `backward` seconds.
double reduced_at(const ClipConfig& config, double backward, double text_share,
                  double seconds_per_element) {
  const auto flat = flat_parameters(config);
  double link_free = 0;
  auto parameter = flat.begin();
  for (int64_t begin = 0; begin < flat.back().end; begin += GradientReducer::kRange) {
    const int64_t end = std::min(begin + GradientReducer::kRange, flat.back().end);
    while (parameter->end < end) ++parameter;  // the one that ends the range
    const double ready = backward * ready_share(parameter->name, config, text_share);
    link_free = std::max(link_free, ready) + real(end - begin) * seconds_per_element;
  }
  return link_free;
}

}  // namespace

StepTime step_time(const ClipConfig& config, const ScalePlan& plan, const Machines& machines) {
  check_plan(config, plan);
  CLIP_CHECK(machines.flop_per_s > 0 && machines.loss_flop_per_s > 0 &&
                 machines.local_bytes_per_s > 0 && machines.link_bytes_per_s > 0 &&
                 machines.ranks_per_machine > 0,
             "[scale] rates of machines must be positive");
  const TowerFlop flop = needed_forward_flop(config, plan.text_length);
  const double forward = real(plan.batch_size) * (flop.image + flop.text) / machines.flop_per_s;
  const double again = plan.activations == Activations::kRecomputed ? 1 : 0;
  const double backward = (2 + again) * forward;
  const double forwards = plan.accum_freq > 1 ? 2 : 1;
  const double mine = real(plan.rank_pairs()), all = real(plan.global_pairs()),
               width = real(config.embed_dim), others = real(plan.ranks - 1) / real(plan.ranks);
  const bool one_machine = plan.ranks <= machines.ranks_per_machine;
  const double bandwidth = one_machine
                               ? machines.local_bytes_per_s
                               : std::min(machines.local_bytes_per_s, machines.link_bytes_per_s);
  const bool softmax = config.loss() == LossKind::kSoftmax;
  const double log_sum_exps = softmax ? 1 : 0;
  // In units of mine x width: the cosines of both directions, forward and again backward, where the
  // rank's own pairs serve both (the sigmoid's forward needs one direction alone), and two products
  // for the gradients.
  const double loss_products = softmax ? 6 * all - 2 * mine : 5 * all - mine;

  StepTime time;
  time.compute = real(plan.accum_freq) * (forwards * forward + backward);
  time.gather = others * 2 * all * (width + log_sum_exps) * kF32Bytes / bandwidth;
  time.loss = 2 * mine * width * loss_products / machines.loss_flop_per_s;
  const double element = 2 * others * kF32Bytes / bandwidth;
  time.reduce = real(flat_parameters(config).back().end) * element;
  const double text_share = flop.text / (flop.image + flop.text);
  time.exposed = std::max(0.0, reduced_at(config, backward, text_share, element) - backward);
  return time;
}

}  // namespace clip
