#include "gguf_file.h"

#include "error.h"
#include "formats.h"
#include "llama_log.h"

namespace cpuft {

namespace {

// The format's specification asks for a multiple of 8; ggml takes any power of two.
constexpr size_t kLeastAlignment = 8;

}  // namespace

GgufFile::GgufFile(const std::string& path) : path_(path), mapping_(path) {
    read_header();
    list_tensors();
}

void GgufFile::read_header() {
    const LlamaLog log;
    ggml_context* shapes = nullptr;
    gguf_.reset(
        gguf_init_from_buffer(mapping_.data(), static_cast<size_t>(mapping_.size()), {/*no_alloc=*/true, &shapes}));
    shapes_.reset(shapes);
    if (!gguf_) {
        refuse("%s is no usable GGUF file: %s; download or convert it again", path_.c_str(),
               log.first_error("its header cannot be read").c_str());
    }
    const size_t alignment = gguf_get_alignment(gguf_.get());
    if (alignment % kLeastAlignment != 0)
        refuse("%s: general.alignment is %zu, expected a multiple of %zu; convert it again", path_.c_str(), alignment,
               kLeastAlignment);
}

void GgufFile::list_tensors() {
    const size_t data_offset = gguf_get_data_offset(gguf_.get());  // ggml has found it inside the file
    const size_t n_data = static_cast<size_t>(mapping_.size()) - data_offset;
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf_.get()); ++i) {
        const char* name = gguf_get_tensor_name(gguf_.get(), i);
        const ggml_tensor* shape = ggml_get_tensor(shapes_.get(), name);
        if (ggml_nelements(shape) == 0) refuse("%s: tensor %s is empty", path_.c_str(), name);
        // ggml allows any number of values below 2^63, whose bytes need not fit 64 bits.
        const size_t block_bytes = ggml_type_size(shape->type);
        const size_t n_blocks = static_cast<size_t>(ggml_nelements(shape) / ggml_blck_size(shape->type));
        const size_t offset = gguf_get_tensor_offset(gguf_.get(), i);
        if (offset > n_data || n_blocks > (n_data - offset) / block_bytes) {
            refuse("%s is truncated: tensor %s lies beyond the end of the file (%lld bytes); download it again",
                   path_.c_str(), name, (long long)mapping_.size());
        }
        if (!is_weight_type(shape->type)) {
            refuse("%s: tensor %s has type %s, which holds no weights", path_.c_str(), name,
                   ggml_type_name(shape->type));
        }
        tensors_[name] = {shape->type, mapping_.data() + data_offset + offset, ggml_nrows(shape), shape->ne[0]};
        data_bytes_ += static_cast<int64_t>(n_blocks * block_bytes);
    }
}

int64_t GgufFile::key_id(const std::string& key) const {
    const int64_t id = gguf_find_key(gguf_.get(), key.c_str());
    if (id < 0) refuse("%s lacks the metadata key %s, which cpuft needs", path_.c_str(), key.c_str());
    return id;
}

bool GgufFile::has(const std::string& key) const { return gguf_find_key(gguf_.get(), key.c_str()) >= 0; }

std::string GgufFile::text(const std::string& key) const {
    const int64_t id = key_id(key);
    if (gguf_get_kv_type(gguf_.get(), id) != GGUF_TYPE_STRING)
        refuse("%s: metadata key %s is no text", path_.c_str(), key.c_str());
    return gguf_get_val_str(gguf_.get(), id);
}

int64_t GgufFile::integer(const std::string& key) const {
    const int64_t id = key_id(key);
    switch (gguf_get_kv_type(gguf_.get(), id)) {
        case GGUF_TYPE_UINT8:
            return gguf_get_val_u8(gguf_.get(), id);
        case GGUF_TYPE_INT8:
            return gguf_get_val_i8(gguf_.get(), id);
        case GGUF_TYPE_UINT16:
            return gguf_get_val_u16(gguf_.get(), id);
        case GGUF_TYPE_INT16:
            return gguf_get_val_i16(gguf_.get(), id);
        case GGUF_TYPE_UINT32:
            return gguf_get_val_u32(gguf_.get(), id);
        case GGUF_TYPE_INT32:
            return gguf_get_val_i32(gguf_.get(), id);
        case GGUF_TYPE_BOOL:
            return gguf_get_val_bool(gguf_.get(), id) ? 1 : 0;
        case GGUF_TYPE_INT64:
            return gguf_get_val_i64(gguf_.get(), id);
        case GGUF_TYPE_UINT64:
            return static_cast<int64_t>(gguf_get_val_u64(gguf_.get(), id));
        default:
            refuse("%s: metadata key %s is no single integer; models whose layers differ in it are not supported",
                   path_.c_str(), key.c_str());
    }
}

double GgufFile::real(const std::string& key) const {
    const int64_t id = key_id(key);
    switch (gguf_get_kv_type(gguf_.get(), id)) {
        case GGUF_TYPE_FLOAT32:
            return static_cast<double>(gguf_get_val_f32(gguf_.get(), id));
        case GGUF_TYPE_FLOAT64:
            return gguf_get_val_f64(gguf_.get(), id);
        default:
            return static_cast<double>(integer(key));
    }
}

std::vector<std::string> GgufFile::texts(const std::string& key) const {
    const int64_t id = key_id(key);
    if (gguf_get_kv_type(gguf_.get(), id) != GGUF_TYPE_ARRAY ||
        gguf_get_arr_type(gguf_.get(), id) != GGUF_TYPE_STRING) {
        refuse("%s: metadata key %s is no list of texts", path_.c_str(), key.c_str());
    }
    std::vector<std::string> values(gguf_get_arr_n(gguf_.get(), id));
    for (size_t i = 0; i < values.size(); ++i) values[i] = gguf_get_arr_str(gguf_.get(), id, i);
    return values;
}

bool GgufFile::is_list(const std::string& key) const {
    return has(key) && gguf_get_kv_type(gguf_.get(), key_id(key)) == GGUF_TYPE_ARRAY;
}

std::vector<int64_t> GgufFile::integers(const std::string& key) const {
    const int64_t id = key_id(key);
    if (!is_list(key)) refuse("%s: metadata key %s is no list", path_.c_str(), key.c_str());
    const size_t n = gguf_get_arr_n(gguf_.get(), id);
    const auto read = [&](auto zero) {
        const auto* values = static_cast<const decltype(zero)*>(gguf_get_arr_data(gguf_.get(), id));
        return std::vector<int64_t>(values, values + n);
    };
    switch (gguf_get_arr_type(gguf_.get(), id)) {
        case GGUF_TYPE_BOOL:
            return read(int8_t{});
        case GGUF_TYPE_INT32:
            return read(int32_t{});
        case GGUF_TYPE_UINT32:
            return read(uint32_t{});
        default:
            refuse("%s: metadata key %s is no list of integers", path_.c_str(), key.c_str());
    }
}

Matrix GgufFile::find(const std::string& name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? Matrix{} : found->second;
}

}  // namespace cpuft
