#include "apps/common/training_run.h"

#include "apps/common/model_options.h"
#include "models/checkpoint.h"

namespace clip {
ModelSource choose_model(const TrainOptions& options) {
  ModelSource source;
  source.checkpoint = options.resume_checkpoint;
  if (source.checkpoint.empty() && !options.pretrained.empty())
    source.checkpoint = find_checkpoint(options.pretrained);
  if (!source.checkpoint.empty()) {
    const bool resumes = !options.resume_checkpoint.empty();
    const WeightChoice choice{options.model_given ? options.model : "", options.force_quick_gelu};
    source.config = load_config(source.checkpoint, resumes ? WeightChoice() : choice);
    source.tokenizer = std::make_shared<Tokenizer>(
        load_tokenizer(source.checkpoint, resumes ? "" : options.tokenizer, source.config));
    return source;
  }
  source.config = preset_or_file(options.model);
  if (options.force_quick_gelu) source.config.gelu = Gelu::kQuick;
  if (!options.tokenizer.empty()) {
    source.tokenizer = std::make_shared<Tokenizer>(Tokenizer::load(options.tokenizer));
    source.config.text.vocab_size = source.tokenizer->vocab_size();
  }
  return source;
}

TrainingData open_training_data(const TrainOptions& options, const ClipConfig& config) {
  TrainingData data;
  const CsvOptions csv{options.csv_image_key, options.csv_caption_key, options.csv_separator};
  if (!options.val_data.empty()) data.validation = open_dataset(options.val_data, csv);
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

}  // namespace clip
