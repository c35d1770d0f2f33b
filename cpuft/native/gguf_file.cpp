#include "gguf_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>

#include "error.h"
#include "formats.h"

namespace cpuft {

namespace {

// ggml reports what is wrong with a file through its log; the last message becomes part of our sentence.
std::mutex log_mutex;
std::string last_log;

void keep_log(ggml_log_level, const char* text, void*) { last_log = text; }

std::string without_newline(std::string text) {
    while (!text.empty() && text.back() == '\n') text.pop_back();
    const size_t colon = text.find(": ");  // drops the name of ggml's function
    return colon == std::string::npos ? text : text.substr(colon + 2);
}

}  // namespace

FileMapping::FileMapping(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) refuse("cannot open the model %s: %s", path.c_str(), std::strerror(errno));
    struct stat status;
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
        close(file);
        refuse("%s is no GGUF file: it is empty or not a regular file", path.c_str());
    }
    void* mapping = mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapping == MAP_FAILED) refuse("cannot map the model %s into memory: %s", path.c_str(), std::strerror(errno));
    data_ = static_cast<const char*>(mapping);
    size_ = status.st_size;
}

FileMapping::~FileMapping() { munmap(const_cast<char*>(data_), static_cast<size_t>(size_)); }

GgufFile::GgufFile(const std::string& path) : path_(path), mapping_(path) {
    read_header();
    list_tensors();
}

void GgufFile::read_header() {
    std::lock_guard<std::mutex> lock(log_mutex);
    ggml_log_callback callback = nullptr;
    void* user_data = nullptr;
    ggml_log_get(&callback, &user_data);
    ggml_log_set(keep_log, nullptr);
    last_log.clear();
    ggml_context* shapes = nullptr;
    gguf_.reset(gguf_init_from_file(path_.c_str(), {/*no_alloc=*/true, &shapes}));
    shapes_.reset(shapes);
    ggml_log_set(callback, user_data);
    if (!gguf_) {
        const std::string reason = last_log.empty() ? "its header cannot be read" : without_newline(last_log);
        refuse("%s is no usable GGUF file: %s; download or convert it again", path_.c_str(), reason.c_str());
    }
}

void GgufFile::list_tensors() {
    const int64_t data_offset = static_cast<int64_t>(gguf_get_data_offset(gguf_.get()));
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf_.get()); ++i) {
        const char* name = gguf_get_tensor_name(gguf_.get(), i);
        const ggml_tensor* shape = ggml_get_tensor(shapes_.get(), name);
        const int64_t bytes = static_cast<int64_t>(ggml_nbytes(shape));
        const uint64_t offset = gguf_get_tensor_offset(gguf_.get(), i);
        if (offset > static_cast<uint64_t>(mapping_.size()) ||
            bytes > mapping_.size() - data_offset - static_cast<int64_t>(offset)) {
            refuse("%s is truncated: tensor %s lies beyond the end of the file (%lld bytes); download it again",
                   path_.c_str(), name, (long long)mapping_.size());
        }
        if (!is_weight_type(shape->type)) {
            refuse("%s: tensor %s has type %s, which holds no weights", path_.c_str(), name,
                   ggml_type_name(shape->type));
        }
        if (ggml_nelements(shape) == 0) refuse("%s: tensor %s is empty", path_.c_str(), name);
        tensors_[name] = {shape->type, mapping_.data() + data_offset + offset, ggml_nrows(shape), shape->ne[0]};
        data_bytes_ += bytes;
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
