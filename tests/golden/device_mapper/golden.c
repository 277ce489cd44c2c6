/* Prints the golden bytes of tests/unit/kernel/test_device_mapper.py, one line each: name, hexadecimal digits.
   cc golden.c -o golden && ./golden >golden.txt */
#include <linux/dm-ioctl.h>
#include <linux/ioctl.h>
#include <linux/loop.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static unsigned char buffer[4096];

static void print(const char *name, const void *data, size_t size) {
  const unsigned char *bytes = data;
  printf("%s ", name);
  for (size_t i = 0; i < size; i++) printf("%02x", bytes[i]);
  printf("\n");
}

static struct dm_ioctl *header(const char *name, unsigned flags, unsigned targets, unsigned event) {
  struct dm_ioctl *io = (void *)buffer;
  memset(buffer, 0, sizeof buffer);
  io->version[0] = 4;
  io->version[1] = 27;
  io->data_size = sizeof buffer;
  io->data_start = sizeof *io;
  io->flags = flags;
  io->target_count = targets;
  io->event_nr = event;
  strcpy(io->name, name);
  return io;
}

static size_t line(size_t at, unsigned long long start, unsigned long long length, const char *type, const char *text, int absolute) {
  struct dm_target_spec *spec = (void *)(buffer + at);
  size_t size = (sizeof *spec + strlen(text) + 1 + 7) & ~7ul;
  spec->sector_start = start;
  spec->length = length;
  spec->next = absolute ? at + size - sizeof(struct dm_ioctl) : size;
  strcpy(spec->target_type, type);
  strcpy((char *)(spec + 1), text);
  return at + size;
}

int main(void) {
  size_t start = sizeof(struct dm_ioctl), end;
  printf("numbers %x %x %x %x %x %x %x %x %x\n", DM_LIST_DEVICES, DM_DEV_CREATE, DM_DEV_REMOVE,
         DM_DEV_SUSPEND, DM_DEV_STATUS, DM_TABLE_LOAD, DM_TABLE_STATUS, DM_LIST_VERSIONS,
         DM_TARGET_MSG);
  printf("flags %x %x %x %x %x %x\n", DM_READONLY_FLAG, DM_SUSPEND_FLAG, DM_STATUS_TABLE_FLAG, DM_SKIP_LOCKFS_FLAG,
         DM_NOFLUSH_FLAG, DM_DEFERRED_REMOVE);
  header("orlop-8:1-99-7", DM_READONLY_FLAG, 2, 0);
  end = line(start, 0, 131072, "thin", "253:0 7", 0);
  end = line(end, 131072, 8, "error", "", 0);
  print("load", buffer, end);
  header("gone", DM_DEFERRED_REMOVE, 0, 0x3f << 16);
  print("remove", buffer, start);
  header("pool", 0, 0, 0);
  ((struct dm_target_msg *)(buffer + start))->sector = 0;
  strcpy(((struct dm_target_msg *)(buffer + start))->message, "create_snap 9 4");
  print("message", buffer, start + sizeof(struct dm_target_msg) + 16);
  struct dm_ioctl *io = header("busy", DM_ACTIVE_PRESENT_FLAG | DM_READONLY_FLAG, 1, 0);
  io->open_count = 3;
  io->dev = 253 << 8 | (1000 & 0xff) | (1000ull & ~0xffull) << 12; /* new_encode_dev */
  end = line(start, 0, 2097152, "thin-pool", "5 215/4096 12/16384 - rw discard_passdown error_if_no_space - 1024 ", 1);
  io->data_size = end;
  print("status", buffer, end);
  header("", 0, 0, 0);
  struct dm_target_versions *first = (void *)(buffer + start);
  first->next = 24, first->version[0] = 1, first->version[1] = 22, first->version[2] = 0;
  strcpy(first->name, "thin");
  struct dm_target_versions *second = (void *)(buffer + start + 24);
  second->version[0] = 1, second->version[1] = 22, strcpy(second->name, "thin-pool");
  print("versions", buffer + start, 56);
  memset(buffer, 0, sizeof buffer);
  struct dm_name_list *name = (void *)buffer;
  name->dev = 253 << 8, name->next = 24, strcpy(name->name, "one");
  name = (void *)(buffer + 24);
  name->dev = 253 << 8 | 1, strcpy(name->name, "two");
  print("names", buffer, 48);
  print("nothing", (struct dm_name_list[]){{0}}, sizeof(struct dm_name_list));
  struct loop_config loop = {.fd = 7, .info = {.lo_flags = LO_FLAGS_AUTOCLEAR}};
  strcpy((char *)loop.info.lo_file_name, "/data");
  print("loop", &loop, sizeof loop);
  return 0;
}
