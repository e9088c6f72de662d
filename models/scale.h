// What a training step costs one of many ranks, on paper: bytes and seconds, from shapes alone.
#pragma once

#include <vector>

#include "models/config.h"
#include "models/transformer.h"

namespace clip {

/// The shape of a run. A step has ranks * accum_freq * batch_size pairs.
struct ScalePlan {
  int64_t ranks = 1;
  int64_t batch_size = 1;  ///< pairs of a rank and micro-batch
  int64_t accum_freq = 1;
  int64_t text_length = 20;       ///< tokens of every caption, start and end included
  DType precision = DType::kF32;  ///< F32 or BF16
  Activations activations = Activations::kKept;

  int64_t rank_pairs() const { return accum_freq * batch_size; }
  int64_t global_pairs() const { return ranks * rank_pairs(); }
};

/// Bytes of one rank's tensors, by kind. Left out: what an allocator keeps for later, the workspaces
/// of libraries, captions not yet packed.
struct StepMemory {
  double parameters = 0;      ///< the F32 values
  double gradients = 0;       ///< theirs
  double moments = 0;         ///< AdamW's two
  double rounded_values = 0;  ///< the BF16 copy
  double batch = 0;           ///< pictures of this step and the next one, tokens of this one
  double features = 0;        ///< [n, E] of both towers and their gradients, n the rank's pairs
  double activations = 0;     ///< what a micro-batch's forward pass leaves for backward
  double backward = 0;  ///< beyond these, at most: gradients of activations, a recomputed block
  double gathered = 0;  ///< [G, E] of both towers, log-sum-exps
  double tiles = 0;     ///< of the loss, one at a time
  /// All that lives at once, at most: the loss is over, and what it gathered is freed, before the
  /// towers' backward pass begins.
  double peak = 0;
};

/// throws clip::Error unless the towers are OpenAI's transformers, whose bytes alone are counted
void check_countable(const ClipConfig& config);

/// Source: what the ops' closures capture (autograd/*.cpp); scale.cpp counts it op by op.
/// throws clip::Error unless the plan's sizes are positive, its precision is F32 or BF16, and the
/// model is countable
StepMemory step_memory(const ClipConfig& config, const ScalePlan& plan);

/// The largest batch_size whose peak is at most `bytes`; 0 if none is.
int64_t largest_batch(const ClipConfig& config, ScalePlan plan, double bytes);

/// How fast ranks are, and how they are joined. Rates are those reached, not those of a data sheet;
/// links count one direction.
struct Machines {
  double flop_per_s = 0;         ///< of a rank: needed_flop of its pairs over the step's seconds
  double loss_flop_per_s = 0;    ///< of a rank, in the loss's F32 products
  double local_bytes_per_s = 0;  ///< from a rank to others of its machine
  double link_bytes_per_s = 0;   ///< from a machine to others, over all its adapters
  int64_t ranks_per_machine = 8;
};

/// Seconds of a step, by what they are spent on. Left out: latencies, and waiting for data or for
/// the slowest rank.
struct StepTime {
  double compute = 0;  ///< both towers, forward and backward; second forwards too
  double gather = 0;   ///< embeddings and log-sum-exps; nothing else runs meanwhile
  double loss = 0;     ///< its products
  double reduce = 0;   ///< sum of the parameters' gradients
  double exposed = 0;  ///< the part of it that is left when backward has ended
  double total() const { return compute + gather + loss + exposed; }
};

/// Towers: needed_flop, and one more forward pass each for GradCache (accum_freq > 1) and for
/// recomputed activations. Loss: 6 products of n G E multiply-adds (2 forward, 4 backward), n the
/// rank's pairs. Collectives are rings: gathering moves (W - 1) / W of the result through every
/// link, a sum 2 (W - 1) / W of its bytes; the slowest link on the way decides. Ranges of the sum
/// start as GradientReducer starts them in the last micro-batch's backward pass, in which every
/// block of a tower takes as long.
/// Sources: rings: Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002; loss:
/// autograd/clip_loss.cpp
/// throws clip::Error unless the plan's sizes and the machines' rates are positive and the model is
/// countable
StepTime step_time(const ClipConfig& config, const ScalePlan& plan, const Machines& machines);

}  // namespace clip
