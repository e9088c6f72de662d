#include "models/pickle.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "engine/check.h"
#include "models/strict_json.h"

namespace clip {

const PickleValue* PickleValue::find(std::string_view key) const {
  for (size_t i = 0; i + 1 < items.size(); i += 2)
    if (items[i]->kind == Kind::kString && items[i]->text == key) return items[i + 1];
  return nullptr;
}

/// The stack machine of the format.
class PickleReader {
 public:
  using Kind = PickleValue::Kind;

  PickleReader(std::span<const std::byte> bytes, const std::string& origin,
               const Pickle::Allowed& allowed, Pickle& pickle)
      : bytes_(bytes), origin_(origin), allowed_(allowed), pickle_(pickle) {}

  void run() {
    while (!stopped_) step(static_cast<unsigned char>(take(1)[0]));
    pickle_.root_ = pop();
    check(stack_.empty(), "leaves ", stack_.size(), " values over");
  }

 private:
  static constexpr size_t kMaxValues = 1'000'000;

  template <class... Parts>
  void check(bool condition, const Parts&... problem) const {
    CLIP_CHECK(condition, origin_, ": its pickle ", problem..., ", at byte ", opcode_place_);
  }

  std::string_view take(uint64_t count) {
    if (count > bytes_.size() - place_)
      throw Error(concat(origin_, ": its pickle is cut short at byte ", bytes_.size()));
    const auto* from = reinterpret_cast<const char*>(bytes_.data()) + place_;
    place_ += count;
    return {from, static_cast<size_t>(count)};
  }

  uint64_t number(size_t width) {
    uint64_t value = 0;
    std::memcpy(&value, take(width).data(), width);
    return value;
  }

  std::string line() {
    const auto rest = bytes_.subspan(place_);
    const auto end = std::find(rest.begin(), rest.end(), std::byte{'\n'});
    const std::string text(take(static_cast<uint64_t>(end - rest.begin())));
    take(1);
    return text;
  }

  PickleValue* make(Kind kind, std::string_view text = {}) {
    check(pickle_.values_.size() < kMaxValues, "makes more than ", kMaxValues, " values");
    pickle_.values_.push_back(std::make_unique<PickleValue>());
    PickleValue* value = pickle_.values_.back().get();
    value->kind = kind;
    value->text = text;
    return value;
  }

  void push(PickleValue* value) { stack_.push_back(value); }

  PickleValue* pop() {
    // What lies under a mark is out of reach until the mark is taken.
    check(stack_.size() > (marks_.empty() ? 0 : marks_.back()),
          "takes a value where there is none");
    PickleValue* value = stack_.back();
    stack_.pop_back();
    return value;
  }

  PickleValue* top() {
    PickleValue* value = pop();
    push(value);
    return value;
  }

  std::vector<const PickleValue*> pop_to_mark() {
    check(!marks_.empty(), "takes a mark where there is none");
    const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<const PickleValue*> values(first, stack_.end());
    stack_.erase(first, stack_.end());
    marks_.pop_back();
    return values;
  }

  void push_integer(Kind kind, int64_t integer) {
    PickleValue* value = make(kind);
    value->integer = integer;
    push(value);
  }

  void push_text(Kind kind, size_t length_bytes) {
    const uint64_t length = number(length_bytes);
    push(make(kind, take(length)));
  }

  void push_sequence(Kind kind, std::vector<const PickleValue*> items) {
    PickleValue* value = make(kind);
    value->items = std::move(items);
    push(value);
  }

  void push_tuple(size_t size) {
    std::vector<const PickleValue*> items(size);
    for (size_t i = size; i-- > 0;) items[i] = pop();
    push_sequence(Kind::kTuple, std::move(items));
  }

  // An integer of 0 to 8 bytes, little-endian, signed.
  void push_long(uint64_t width) {
    check(width <= 8, "holds a whole number of ", width, " bytes");
    uint64_t value = number(static_cast<size_t>(width));
    const bool negative = width > 0 && value >> (8 * width - 1) != 0;
    if (negative && width < 8) value |= ~uint64_t{0} << 8 * width;
    push_integer(Kind::kInt, static_cast<int64_t>(value));
  }

  void push_float() {
    take(8);
    push(make(Kind::kFloat));
  }

  void append(std::vector<const PickleValue*> items) {
    PickleValue* list = top();
    check(list->kind == Kind::kList, "appends to what is no list");
    list->items.insert(list->items.end(), items.begin(), items.end());
  }

  void set_items(const std::vector<const PickleValue*>& items) {
    PickleValue* dict = top();
    check(dict->kind == Kind::kDict && items.size() % 2 == 0, "sets items of what is no dict");
    dict->items.insert(dict->items.end(), items.begin(), items.end());
  }

  void remember(uint64_t name) { memo_[name] = top(); }

  void recall(uint64_t name) {
    const auto found = memo_.find(name);
    check(found != memo_.end(), "recalls value ", name, ", which it never stored");
    push(found->second);
  }

  void push_global(const std::string& module, const std::string& name) {
    constexpr size_t kLongestName = 1000;
    check(module.size() + name.size() <= kLongestName, "holds a name of more than ", kLongestName,
          " letters");
    push(make(Kind::kGlobal, module + '.' + name));
  }

  // A call of an allowed function; an OrderedDict becomes a dict, as which it is filled.
  void reduce() {
    const PickleValue* arguments = pop();
    const PickleValue* callee = pop();
    check(callee->kind == Kind::kGlobal && arguments->kind == Kind::kTuple,
          "calls what is no function");
    check(allowed_.call(callee->text), "asks for a call of ", shown(callee->text),
          ", which no weights need; nothing was run");
    const bool is_dict = callee->text == "collections.OrderedDict" && arguments->items.empty();
    PickleValue* value = make(is_dict ? Kind::kDict : Kind::kCall, callee->text);
    copy_items(*value, *arguments);
    push(value);
  }

  // A value may be copied from many times, so a small pickle could fill the memory.
  void copy_items(PickleValue& to, const PickleValue& from) {
    copied_ += from.items.size();
    check(copied_ <= kMaxValues, "copies more than ", kMaxValues, " values");
    to.items = from.items;
  }

  void new_object() {
    const PickleValue* arguments = pop();
    const PickleValue* type = pop();
    check(type->kind == Kind::kGlobal && arguments->kind == Kind::kTuple,
          "makes an object of what is no class");
    check(allowed_.object(type->text), "asks for an object of the class ", shown(type->text),
          ", which no weights need; nothing was run");
    push(make(Kind::kObject, type->text));
  }

  // An object's attributes. What is set on a dict (state_dict's _metadata) says nothing of tensors.
  void build() {
    const PickleValue* state = pop();
    PickleValue* object = top();
    if (object->kind == Kind::kDict) return;
    check(object->kind == Kind::kObject && state->kind == Kind::kDict,
          "gives attributes to what has none");
    copy_items(*object, *state);
  }

  void step(unsigned char opcode) {
    opcode_place_ = place_ - 1;
    if (plain_value(opcode) || container(opcode)) return;
    switch (opcode) {
      case 0x80: {  // PROTO
        const uint64_t protocol = number(1);
        return check(protocol >= 2 && protocol <= 5, "has protocol ", protocol,
                     ", 2 to 5 expected");
      }
      case 0x95:
        return void(number(8));  // FRAME
      case '.':
        stopped_ = true;
        return;  // STOP
      case '0':
        return void(pop());  // POP
      case 'q':
        return remember(number(1));  // BINPUT
      case 'r':
        return remember(number(4));  // LONG_BINPUT
      case 0x94:
        return remember(memo_.size());  // MEMOIZE
      case 'h':
        return recall(number(1));  // BINGET
      case 'j':
        return recall(number(4));  // LONG_BINGET
      case 'c': {                  // GLOBAL
        const std::string module = line();
        return push_global(module, line());
      }
      case 0x93: {  // STACK_GLOBAL
        const std::string name = pop()->text;
        return push_global(pop()->text, name);
      }
      case 'R':
        return reduce();  // REDUCE
      case 0x81:
        return new_object();  // NEWOBJ
      case 'b':
        return build();  // BUILD
      case 'Q':
        return push_sequence(Kind::kReference, {pop()});  // BINPERSID
      default:
        check(false, "holds opcode ", static_cast<int>(opcode),
              ", which no weights need; nothing was run");
    }
  }

  bool plain_value(unsigned char opcode) {
    switch (opcode) {
      case 'N':
        push(make(Kind::kNone));
        return true;
      case 0x88:
        push_integer(Kind::kBool, 1);
        return true;
      case 0x89:
        push_integer(Kind::kBool, 0);
        return true;
      case 'J':
        push_long(4);
        return true;  // BININT
      case 'K':
        push_integer(Kind::kInt, static_cast<int64_t>(number(1)));
        return true;  // BININT1
      case 'M':
        push_integer(Kind::kInt, static_cast<int64_t>(number(2)));
        return true;  // BININT2
      case 0x8a:
        push_long(number(1));
        return true;  // LONG1
      case 'G':
        push_float();
        return true;  // BINFLOAT
      case 'X':
        push_text(Kind::kString, 4);
        return true;  // BINUNICODE
      case 0x8c:
        push_text(Kind::kString, 1);
        return true;  // SHORT_BINUNICODE
      case 0x8d:
        push_text(Kind::kString, 8);
        return true;  // BINUNICODE8
      case 'T':
        push_text(Kind::kString, 4);
        return true;  // BINSTRING
      case 'U':
        push_text(Kind::kString, 1);
        return true;  // SHORT_BINSTRING
      case 'B':
        push_text(Kind::kBytes, 4);
        return true;  // BINBYTES
      case 'C':
        push_text(Kind::kBytes, 1);
        return true;  // SHORT_BINBYTES
      default:
        return false;
    }
  }

  bool container(unsigned char opcode) {
    switch (opcode) {
      case '(':
        marks_.push_back(stack_.size());
        return true;  // MARK
      case ')':
        push_tuple(0);
        return true;
      case 0x85:
        push_tuple(1);
        return true;
      case 0x86:
        push_tuple(2);
        return true;
      case 0x87:
        push_tuple(3);
        return true;
      case 't':
        push_sequence(Kind::kTuple, pop_to_mark());
        return true;
      case ']':
        push(make(Kind::kList));
        return true;
      case 'l':
        push_sequence(Kind::kList, pop_to_mark());
        return true;
      case 'a':
        append({pop()});
        return true;
      case 'e':
        append(pop_to_mark());
        return true;
      case '}':
        push(make(Kind::kDict));
        return true;
      case 's': {
        const PickleValue* value = pop();
        const PickleValue* key = pop();
        set_items({key, value});
        return true;
      }
      case 'u':
        set_items(pop_to_mark());
        return true;
      default:
        return false;
    }
  }

  std::span<const std::byte> bytes_;
  const std::string& origin_;
  const Pickle::Allowed& allowed_;
  Pickle& pickle_;
  size_t place_ = 0, opcode_place_ = 0, copied_ = 0;
  std::vector<PickleValue*> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint64_t, PickleValue*> memo_;
  bool stopped_ = false;
};

Pickle::Pickle(std::span<const std::byte> bytes, const std::string& origin,
               const Allowed& allowed) {
  PickleReader(bytes, origin, allowed, *this).run();
}

}  // namespace clip
