// What a Python pickle says, read without doing it: calls, classes and outside references become
// values to look at, and nothing is run. Source: CPython's Lib/pickletools.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace clip {

/// A value of a pickle. Values may be shared and, in a malicious file, contain themselves: whoever
/// walks them counts.
struct PickleValue {
  enum class Kind {
    kNone,
    kBool,
    kInt,
    kFloat,
    kString,
    kBytes,
    kTuple,
    kList,
    kDict,       ///< items: key, value, key, value, ...
    kGlobal,     ///< text: "module.name"
    kCall,       ///< text: what is called; items: the arguments
    kObject,     ///< text: its class; items: its attributes, as in kDict
    kReference,  ///< items: one value that says what it refers to (a storage, in torch files)
  };

  Kind kind = Kind::kNone;
  int64_t integer = 0;  ///< of kInt and kBool
  std::string text;
  std::vector<const PickleValue*> items;

  /// The value of a string key of a kDict or kObject; null if there is none.
  const PickleValue* find(std::string_view key) const;
};

/// A pickle's values, owned together.
class Pickle {
 public:
  /// What a pickle may ask for, by "module.name".
  struct Allowed {
    std::function<bool(const std::string&)> call;    ///< functions that become kCall
    std::function<bool(const std::string&)> object;  ///< classes that become kObject
  };

  /// bytes    the pickle, protocol 2 to 5, the opcodes that tensors and plain containers need
  /// origin   what errors begin with
  /// throws   clip::Error: cut short, an opcode beyond those, a call or class that is not allowed,
  ///          more than a million values
  Pickle(std::span<const std::byte> bytes, const std::string& origin, const Allowed& allowed);

  const PickleValue& root() const { return *root_; }

 private:
  friend class PickleReader;
  std::vector<std::unique_ptr<PickleValue>> values_;
  const PickleValue* root_ = nullptr;
};

}  // namespace clip
