// A model in the files of another library.
#include <iostream>

#include "apps/common/model_options.h"
#include "apps/common/program.h"
#include "models/export.h"
#include "models/model_files.h"
#include "models/positions.h"

namespace clip {
namespace {

namespace po = boost::program_options;

constexpr const char* kUsage =
    "Writes a model as open_clip, Hugging Face or OpenAI's code reads it.\n"
    "Usage: ./apps/convert MODEL --to open_clip|huggingface|openai --out FOLDER\n"
    "  open_clip    open_clip_config.json and open_clip_model.safetensors, for "
    "\"local-dir:FOLDER\"\n"
    "  huggingface  config.json and model.safetensors, for transformers' CLIPModel; with "
    "--text-only or\n"
    "               --image-only for CLIPTextModelWithProjection and "
    "CLIPVisionModelWithProjection\n"
    "  openai       model.pt, a state dict (torch.load(..., weights_only=True)) for\n"
    "               clip.model.build_model; no TorchScript archive\n"
    "Example:\n"
    "  ./apps/convert ViT-B-32.pt --to huggingface --out clip-b-32\n";

po::options_description option_list() {
  const auto text = [](const char* value = "") {
    return po::value<std::string>()->default_value(value);
  };
  po::options_description options("Options");
  // clang-format off
  add_first_options(options)
    ("to", text(), "open_clip, huggingface or openai")
    ("out", text(), "folder to write")
    ("dtype", text("fp32"), "fp32, fp16 or bf16: what the numbers are stored as")
    ("text-only", po::bool_switch(), "the text tower alone")
    ("image-only", po::bool_switch(), "the image tower alone")
    ("image-size", po::value<int64_t>(), "for pictures of this side: position embeddings are resized as open_clip "
                                         "does (bicubic, antialiased)")
    ("context-length", po::value<int64_t>(), "for texts of at most this many tokens: position embeddings are resized "
                                             "as open_clip does (linear)")
    ("overwrite", po::bool_switch(), "replace FOLDER if it holds a model");
  // clang-format on
  add_model_options(options);
  return options;
}

ExportOptions export_options(const po::variables_map& values) {
  ExportOptions options;
  options.layout = one_of<ModelLayout>(values, "to",
                                       {{"open_clip", ModelLayout::kOpenClip},
                                        {"huggingface", ModelLayout::kHuggingFace},
                                        {"openai", ModelLayout::kOpenAi}});
  options.stored_as =
      one_of<std::string>(values, "dtype", {{"fp32", ""}, {"fp16", "F16"}, {"bf16", "BF16"}});
  const bool text_only = values["text-only"].as<bool>(),
             image_only = values["image-only"].as<bool>();
  if (text_only && image_only) throw UsageError("--text-only and --image-only exclude each other");
  if (text_only) options.towers = Towers::kText;
  if (image_only) options.towers = Towers::kImage;
  options.overwrite = values["overwrite"].as<bool>();
  return options;
}

int64_t size_or(const po::variables_map& values, const char* option, int64_t own) {
  return values.count(option) == 0 ? own : at_least(1, values, option);
}

void convert(int argc, const char* const* argv) {
  const po::variables_map values = parse_options(argc, argv, option_list(), kUsage, "checkpoint");
  const std::string path = values["checkpoint"].as<std::string>(),
                    out = values["out"].as<std::string>();
  if (path.empty()) throw UsageError("a MODEL to convert is needed");
  if (out.empty()) throw UsageError("--out FOLDER is needed");
  const ExportOptions options = export_options(values);
  const ModelOptions model_options(values);

  LoadedModel loaded = load_model(path, model_options, cpu_backend(), DType::kF32, Words::kIfThere);
  const ClipConfig& config = loaded.clip().config;
  const int64_t image_size = size_or(values, "image-size", config.vision.image_size);
  const int64_t context = size_or(values, "context-length", config.text.context_length);
  if (image_size != config.vision.image_size || context != config.text.context_length)
    loaded.model = with_positions(*loaded.model, image_size, context);
  export_model(out, *loaded.model, loaded.tokenizer.get(), options);
  if (loaded.tokenizer == nullptr)
    std::cerr << "there is no tokenizer beside the weights, so none was written\n";
  std::cout << "wrote " << one_line(out) << '\n';
}

}  // namespace
}  // namespace clip

int main(int argc, char** argv) {
  return clip::run_program("convert", [&] { clip::convert(argc, argv); });
}
