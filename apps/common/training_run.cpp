#include "apps/common/training_run.h"

#include "apps/common/model_options.h"
#include "engine/random.h"

namespace clip {

namespace {

ModelSource source_of(const TrainOptions& options) {
  ModelSource source;
  source.checkpoint = options.resume_checkpoint;
  if (source.checkpoint.empty() && !options.pretrained.empty())
    source.checkpoint = find_checkpoint(options.pretrained);
  if (!source.checkpoint.empty()) {
    const bool resumes = !options.resume_checkpoint.empty();
    const WeightChoice choice{options.model_given ? options.model : "", options.force_quick_gelu};
    source.config = load_config(source.checkpoint, resumes ? WeightChoice() : choice);
    source.tokenizer = std::make_shared<Tokenizer>(load_tokenizer(
        source.checkpoint, resumes ? VocabularyChoice() : options.vocabulary, source.config));
    if (options.siglip && source.config.loss() != LossKind::kSigmoid)
      throw UsageError(concat("--siglip: ", source.checkpoint,
                              " was trained with the softmax loss: it has no logit_bias"));
    return source;
  }
  source.config = preset_or_file(options.model);
  if (options.force_quick_gelu) source.config.gelu = Gelu::kQuick;
  if (options.siglip) source.config = with_sigmoid_loss(source.config, options.siglip_bias_init);
  if (options.vocabulary.given()) {
    source.tokenizer = std::make_shared<Tokenizer>(options.vocabulary.load());
    source.config.text.vocab_size = source.tokenizer->vocab_size();
  }
  return source;
}

}  // namespace

ModelSource choose_model(const TrainOptions& options) {
  ModelSource source = source_of(options);
  if (source.config.vision.is_resnet() && options.patch_dropout > 0)
    throw UsageError(concat("--patch-dropout must be 0 with a ResNet, which has no patches, got ",
                            options.patch_dropout));
  return source;
}

TrainingData open_training_data(const TrainOptions& options, const ClipConfig& config) {
  TrainingData data;
  const CsvOptions csv{options.csv_image_key, options.csv_caption_key, options.csv_separator};
  if (!options.val_data.empty())
    data.validation = open_dataset(options.val_data, csv, Split::kTest);
  if (!options.train_data.empty()) {
    data.pairs = open_dataset(options.train_data, csv);
    return data;
  }
  EmojiScenes::Options scenes;
  scenes.image_size = config.vision.image_size;
  scenes.seed = options.seed;
  scenes.font = options.font;
  data.scenes = std::make_shared<EmojiScenes>(scenes);
  data.pairs = data.scenes;
  return data;
}

void complete_vocabulary(ModelSource& source, const Dataset& pairs) {
  if (source.tokenizer != nullptr) return;
  source.tokenizer = std::make_shared<Tokenizer>(
      Tokenizer::learn(pairs.captions(), source.config.text.vocab_size));
  source.config.text.vocab_size = source.tokenizer->vocab_size();
}

nlohmann::json facts_of_run(const TrainOptions& options, const ChosenDevice& device,
                            const ModelSource& source, const TrainingData& data,
                            const TrainingState& state) {
  nlohmann::json facts;
  for (const auto& [name, value] : options.json.items())
    if (name != "device" && name != "workers") facts["--" + name] = value;
  const bool gpu = device.backend->device().kind == Device::Kind::kCuda;
  facts["the kind of device"] = gpu ? "GPU" : "CPU";
  facts["the run's folder"] = options.run_folder;
  facts["the checkpoint to start from"] = source.checkpoint;
  facts["the step to go on from"] = state.step;
  facts["the data set"] = data.pairs->describe();
  if (data.validation != nullptr) facts["the data set of --val-data"] = data.validation->describe();
  facts["the model"] = nlohmann::json::parse(to_json(source.config));
  facts["the vocabulary's hash"] = random_stream(source.tokenizer->to_json());
  return facts;
}

std::unique_ptr<Communicator> join_gpus(Communicator& ranks, Backend& backend) {
  if (backend.device().kind == Device::Kind::kCpu) return nullptr;
  return make_gpu_communicator(ranks, backend);
}

void share_parameters(ParameterList& parameters, Communicator& comm) {
  for (Tensor* flat : {&parameters.values(), &parameters.first_moments(),
                       &parameters.second_moments(), &parameters.buffer_values()})
    if (flat->numel() > 0) comm.broadcast(*flat, 0);
  comm.wait();
  parameters.round_values();
}

}  // namespace clip
