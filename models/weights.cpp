#include "models/weights.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "models/atomic_file.h"
#include "models/safetensors.h"
#include "models/strict_json.h"
#include "models/torch_file.h"
#include "models/weight_names.h"

namespace clip {
namespace {

constexpr int64_t kMaxIndexBytes = 1 << 26;

// What an archive's classes say of the activation.
std::optional<Gelu> gelu_of(const std::map<std::string, std::string>& classes) {
  std::set<Gelu> found;
  for (const auto& [part, type] : classes) {
    if (type.ends_with(".QuickGELU")) found.insert(Gelu::kQuick);
    if (type.ends_with(".GELU")) found.insert(Gelu::kErf);
  }
  return found.size() == 1 ? std::optional(*found.begin()) : std::nullopt;
}

/// A tensor as a part of a parameter.
struct Part {
  std::string file, name;
  size_t parts = 1;  // that the parameter has
  StoredTensor tensor;
};
using Parts = std::map<std::string, std::map<size_t, Part>>;  // by parameter and place in it

void add(Parts& parameters, const std::string& path,
         const std::map<std::string, StoredTensor>& tensors, bool has_hugging_face_names) {
  for (const auto& [name, tensor] : tensors) {
    if (is_bookkeeping(name)) continue;
    const NamedPart part =
        has_hugging_face_names ? from_hugging_face(name) : NamedPart{name, without_wrappers(name)};
    const auto placed =
        parameters[part.parameter].emplace(part.part, Part{path, name, part.parts, tensor});
    CLIP_CHECK(placed.second, path, ": ", shown(name), " and ", shown(placed.first->second.name),
               " of ", placed.first->second.file, " are the same parameter, ", part.parameter);
    StoredTensor& stored = placed.first->second.tensor;
    const size_t rank = stored.shape.size();
    CLIP_CHECK(!part.transposed || rank == 2, path, ": tensor ", shown(name),
               " must be a matrix, has shape ", shown(stored.shape));
    CLIP_CHECK(part.parts == 1 || rank >= 1, path, ": tensor ", shown(name),
               " must have rows, has shape []");
    if (part.transposed) stored = stored.transposed();
  }
}

std::map<std::string, Weight> joined(const Parts& parameters) {
  std::map<std::string, Weight> weights;
  for (const auto& [parameter, parts] : parameters) {
    const Part& first = parts.begin()->second;
    CLIP_CHECK(parts.size() == first.parts, first.file, ": of the ", first.parts,
               " tensors that make ", parameter, " there are ", parts.size(), ", among them ",
               shown(first.name));
    Weight& weight = weights[parameter];
    weight.file = first.file;
    weight.name = first.name;
    for (const auto& [part, piece] : parts) {
      const auto& shape = piece.tensor.shape;
      CLIP_CHECK(std::equal(shape.begin() + (shape.empty() ? 0 : 1), shape.end(),
                            first.tensor.shape.begin() + (first.tensor.shape.empty() ? 0 : 1),
                            first.tensor.shape.end()),
                 piece.file, ": tensor ", shown(piece.name), " of shape ", shown(shape),
                 " does not fit ", shown(first.name), " of shape ", shown(first.tensor.shape));
      weight.pieces.push_back(piece.tensor);
    }
  }
  return weights;
}

}  // namespace

std::vector<int64_t> Weight::shape() const {
  std::vector<int64_t> whole = pieces[0].shape;
  for (size_t i = 1; i < pieces.size(); ++i) whole[0] += pieces[i].shape[0];
  return whole;
}

int64_t Weight::numel() const {
  int64_t count = 0;
  for (const StoredTensor& piece : pieces) count += piece.numel();
  return count;
}

void Weight::check_float() const {
  for (const StoredTensor& piece : pieces)
    CLIP_CHECK(piece.is_readable(), file, ": tensor ", shown(name),
               " must have dtype F16, BF16, F32 or F64, has ", piece.dtype);
}

void Weight::read(DType to_dtype, void* to) const {
  check_float();
  auto* place = static_cast<std::byte*>(to);
  for (const StoredTensor& piece : pieces) {
    read_numbers(piece, to_dtype, place);
    place += piece.numel() * size_of(to_dtype);
  }
}

Weights::Weights(const std::string& path) : path_(path) {
  if (path.ends_with(".index.json")) {
    open_index(path);
  } else {
    open(path);
  }
  // Decided for all files together: a shard may hold none of the names that tell.
  for (const Opened& file : opened_)
    for (const auto& [name, tensor] : *file.tensors)
      has_hugging_face_names_ = has_hugging_face_names_ || is_hugging_face_name(name);
  Parts parts;
  for (const Opened& file : opened_) add(parts, file.path, *file.tensors, has_hugging_face_names_);
  all_ = joined(parts);
}

const Weight* Weights::find(const std::string& name) const {
  const auto found = all_.find(name);
  return found == all_.end() ? nullptr : &found->second;
}

const Weight& Weights::at(const std::string& name) const {
  const Weight* weight = find(name);
  CLIP_CHECK(weight != nullptr, path_, ": tensor ", name, " is missing");
  return *weight;
}

void Weights::open(const std::string& path) {
  if (path.ends_with(".safetensors")) {
    const auto file = std::make_shared<const SafetensorsFile>(path);
    opened_.push_back({path, file, &file->entries()});
    return;
  }
  const auto file = std::make_shared<const TorchFile>(path);
  opened_.push_back({path, file, &file->entries()});
  const bool is_script = file->kind() == TorchFile::Kind::kScript;
  container_ = is_script ? Container::kTorchScript : Container::kTorchStateDict;
  gelu_ = gelu_of(file->classes());
  const auto& entries = file->entries();
  const bool is_openai = entries.contains("input_resolution") &&
                         entries.contains("context_length") && entries.contains("vocab_size");
  if (!gelu_ && is_openai) gelu_ = Gelu::kQuick;
}

// {"weight_map": {"tensor's name": "file beside the index", ...}}
void Weights::open_index(const std::string& path) {
  const nlohmann::json index = parse_json(read_file(path, kMaxIndexBytes), path);
  CLIP_CHECK(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(),
             path, ": no index of weight files, which has an object weight_map");
  std::set<std::string> files;
  for (const auto& [name, file] : index["weight_map"].items()) {
    CLIP_CHECK(file.is_string() && file.get<std::string>().find('/') == std::string::npos, path,
               ": tensor ", shown(name), " is said to be in ", shown(file),
               ", the name of a file beside the index expected");
    files.insert(file.get<std::string>());
  }
  CLIP_CHECK(!files.empty(), path, ": its weight_map is empty");
  for (const std::string& file : files)
    open((std::filesystem::path(path).parent_path() / file).string());
}

namespace {

/// The size of one axis of a weight.
int64_t size_in(const Weights& weights, const std::string& name, size_t rank, size_t axis) {
  const std::vector<int64_t> shape = weights.at(name).shape();
  CLIP_CHECK(shape.size() == rank, weights.path(), ": tensor ", name, " must have ", rank,
             " axes, has shape ", shown(shape));
  CLIP_CHECK(shape[axis] > 0, weights.path(), ": tensor ", name, " is empty, it has shape ",
             shown(shape));
  return shape[axis];
}

int64_t count_blocks(const Weights& weights, const std::string& prefix) {
  int64_t blocks = 0;
  while (weights.find(concat(prefix, "transformer.resblocks.", blocks, ".attn.in_proj_weight")))
    ++blocks;
  return blocks;
}

int64_t square_root(int64_t square) {
  int64_t root = 0;
  while ((root + 1) * (root + 1) <= square) ++root;
  return root;
}

bool same_sizes(const ClipConfig& a, const ClipConfig& b) {
  const VisionConfig &u = a.vision, &v = b.vision;
  const TextConfig &s = a.text, &t = b.text;
  return a.embed_dim == b.embed_dim && u.width == v.width && u.layers == v.layers &&
         u.stages == v.stages && u.patch_size == v.patch_size && u.mlp_width() == v.mlp_width() &&
         s.width == t.width && s.layers == t.layers && s.mlp_width() == t.mlp_width() &&
         s.vocab_size == t.vocab_size;
}

void choose_heads(ClipConfig& config, const std::string& path) {
  for (const std::string& name : preset_names()) {
    const ClipConfig known = preset(name);
    if (!same_sizes(config, known)) continue;
    config.vision.head_width = known.vision.head_width;
    config.text.heads = known.text.heads;
    return;
  }
  constexpr int64_t kHeadWidth = 64;
  if (config.vision.feature_width() % kHeadWidth != 0 || config.text.width % kHeadWidth != 0)
    throw UsageError(concat(path, ": widths ", config.vision.feature_width(), " and ",
                            config.text.width,
                            " are no multiples of 64, so the number of heads cannot be known; "
                            "--model FILE.json gives it, an open_clip configuration"));
  config.vision.head_width = kHeadWidth;
  config.text.heads = config.text.width / kHeadWidth;
}

Gelu choose_gelu(const Weights& weights, const WeightChoice& choice) {
  if (choice.force_quick_gelu) return Gelu::kQuick;
  if (weights.gelu()) return *weights.gelu();
  throw UsageError(concat(weights.path(),
                          ": weights alone, and nothing in them says whether their "
                          "model computes QuickGELU or exact GELU; --force-quick-gelu says the "
                          "first, --model NAME either (ViT-B-32-quickgelu, ViT-B-32)"));
}

// What tells a model of the sigmoid loss from its weights is their bias. Its start, SigLIP's here,
// matters to nothing once there are weights.
void choose_loss(ClipConfig& config, const Weights& weights) {
  constexpr double kInitLogitBias = -10;
  if (weights.find("logit_bias") && !config.init_logit_bias)
    config = with_sigmoid_loss(config, kInitLogitBias);
}

constexpr const char* kHidden = "transformer.resblocks.0.mlp.c_fc.weight";

/// The side of the square that the rows of a positional embedding make, the first one left out.
int64_t side_of(const Weights& weights, const std::string& embedding) {
  const int64_t places = size_in(weights, embedding, 2, 0) - 1;
  const int64_t side = places < int64_t{1} << 30 ? square_root(places) : 0;
  CLIP_CHECK(side > 0 && side * side == places, weights.path(), ": ", embedding, " has ", places,
             " rows beside the first, which is no square of patches");
  return side;
}

VisionConfig vit_of(const Weights& weights) {
  VisionConfig vision;
  vision.width = size_in(weights, "visual.conv1.weight", 4, 0);
  vision.patch_size = size_in(weights, "visual.conv1.weight", 4, 3);
  vision.image_size = side_of(weights, "visual.positional_embedding") * vision.patch_size;
  vision.layers = count_blocks(weights, "visual.");
  vision.mlp_ratio = mlp_ratio_of(size_in(weights, concat("visual.", kHidden), 2, 0), vision.width);
  return vision;
}

VisionConfig resnet_of(const Weights& weights) {
  VisionConfig vision;
  vision.width = size_in(weights, "visual.layer1.0.conv1.weight", 4, 0);
  vision.image_size =
      side_of(weights, "visual.attnpool.positional_embedding") * VisionConfig::kResNetStride;
  for (int64_t stage = 1; stage <= 4; ++stage) {
    int64_t blocks = 0;
    while (weights.find(concat("visual.layer", stage, '.', blocks, ".conv1.weight"))) ++blocks;
    vision.stages.push_back(blocks);
  }
  return vision;
}

ClipConfig named_config(const Weights& weights, const WeightChoice& choice) {
  ClipConfig config = preset_or_file(choice.model);
  choose_loss(config, weights);
  if (choice.force_quick_gelu) config.gelu = Gelu::kQuick;
  const auto name_of_gelu = [](Gelu gelu) {
    return gelu == Gelu::kQuick ? "QuickGELU" : "exact GELU";
  };
  if (weights.gelu() && *weights.gelu() != config.gelu)
    throw UsageError(concat("--model ", choice.model, " computes ", name_of_gelu(config.gelu),
                            ", the weights of ", weights.path(), " were made with ",
                            name_of_gelu(*weights.gelu())));
  return config;
}

}  // namespace

ClipConfig infer_config(const Weights& weights, const WeightChoice& choice) {
  if (!choice.model.empty()) return named_config(weights, choice);
  const std::string& path = weights.path();
  ClipConfig config;
  config.embed_dim = size_in(weights, "text_projection", 2, 1);
  config.vision =
      weights.find("visual.layer1.0.conv1.weight") ? resnet_of(weights) : vit_of(weights);
  TextConfig& text = config.text;
  text.context_length = size_in(weights, "positional_embedding", 2, 0);
  text.vocab_size = size_in(weights, "token_embedding.weight", 2, 0);
  text.width = size_in(weights, "ln_final.weight", 1, 0);
  text.layers = count_blocks(weights, "");
  text.mlp_ratio = mlp_ratio_of(size_in(weights, kHidden, 2, 0), text.width);
  choose_heads(config, path);
  config.gelu = choose_gelu(weights, choice);
  choose_loss(config, weights);
  try {
    config.check();
  } catch (const Error& error) {
    throw Error(concat(path, ": by its shapes, ", error.what()));
  }
  return config;
}

}  // namespace clip
