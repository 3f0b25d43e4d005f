/*
 * A PKCS #11 module that stands before another one, hands every call on, and does wrong what it is told to. For tests.
 *
 *   SHIM_MODULE   the module behind, loaded at the first C_GetFunctionList
 *   SHIM_CONTROL  file of faults, read at every call; tests replace it atomically
 *   SHIM_LOG      file to which a line is appended for every call: its name and its return value in hexadecimal, once it
 *                 returns; or "hang" or "crash" as soon as that meets it, and no more
 *
 * A line of the control file is FUNCTION FAULT [after=N] [count=N]. FUNCTION is a name such as C_Sign, or * for every one.
 * FAULT is one of
 *
 *   rv=0x30   return that at once; the module behind hears nothing
 *   hang      do not return while the control file holds the line
 *   crash     write to address 0
 *   crash-late  hand the call on, then write to address 0
 *   corrupt   hand the call on, then change a bit of the signature (C_Sign alone)
 *   emulate   do without the module behind what it does not: C_UnwrapKey with CKM_AES_CBC_PAD (that alone)
 *
 * after=N lets the first N calls through; count=N meets N calls and no more. The first line that applies is obeyed. Counts
 * begin anew whenever the file is replaced.
 *
 * The types of PKCS #11 are all unsigned long, bytes and pointers. Structures are looked into in emulate alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef unsigned long word;

#define CKR_OK 0x0UL
#define CKR_GENERAL_ERROR 0x5UL

/*
 * Every function of CK_FUNCTION_LIST of v2.40 in its order, and its number of arguments; C_GetFunctionList, which is not
 * handed on, is what the caller says.
 */
#define FUNCTIONS(F, ...) \
	F(C_Initialize, 1) F(C_Finalize, 1) F(C_GetInfo, 1) __VA_ARGS__ F(C_GetSlotList, 3) F(C_GetSlotInfo, 2) \
	F(C_GetTokenInfo, 2) F(C_GetMechanismList, 3) F(C_GetMechanismInfo, 3) F(C_InitToken, 4) F(C_InitPIN, 3) \
	F(C_SetPIN, 5) F(C_OpenSession, 5) F(C_CloseSession, 1) F(C_CloseAllSessions, 1) F(C_GetSessionInfo, 2) \
	F(C_GetOperationState, 3) F(C_SetOperationState, 5) F(C_Login, 4) F(C_Logout, 1) F(C_CreateObject, 4) \
	F(C_CopyObject, 5) F(C_DestroyObject, 2) F(C_GetObjectSize, 3) F(C_GetAttributeValue, 4) \
	F(C_SetAttributeValue, 4) F(C_FindObjectsInit, 3) F(C_FindObjects, 4) F(C_FindObjectsFinal, 1) \
	F(C_EncryptInit, 3) F(C_Encrypt, 5) F(C_EncryptUpdate, 5) F(C_EncryptFinal, 3) F(C_DecryptInit, 3) \
	F(C_Decrypt, 5) F(C_DecryptUpdate, 5) F(C_DecryptFinal, 3) F(C_DigestInit, 2) F(C_Digest, 5) \
	F(C_DigestUpdate, 3) F(C_DigestKey, 2) F(C_DigestFinal, 3) F(C_SignInit, 3) F(C_Sign, 5) F(C_SignUpdate, 3) \
	F(C_SignFinal, 3) F(C_SignRecoverInit, 3) F(C_SignRecover, 5) F(C_VerifyInit, 3) F(C_Verify, 5) \
	F(C_VerifyUpdate, 3) F(C_VerifyFinal, 3) F(C_VerifyRecoverInit, 3) F(C_VerifyRecover, 5) \
	F(C_DigestEncryptUpdate, 5) F(C_DecryptDigestUpdate, 5) F(C_SignEncryptUpdate, 5) F(C_DecryptVerifyUpdate, 5) \
	F(C_GenerateKey, 5) F(C_GenerateKeyPair, 8) F(C_WrapKey, 6) F(C_UnwrapKey, 8) F(C_DeriveKey, 6) \
	F(C_SeedRandom, 3) F(C_GenerateRandom, 3) F(C_GetFunctionStatus, 1) F(C_CancelFunction, 1) F(C_WaitForSlotEvent, 3)

/* The number of a function, which is its place in the list. */
enum {
#define NUMBER(name, arguments) N_##name,
	FUNCTIONS(NUMBER, N_C_GetFunctionList,) FUNCTION_COUNT
#undef NUMBER
};

/* CK_FUNCTION_LIST: a version of two bytes, then the pointers, naturally aligned. */
struct list {
	unsigned char major, minor;
	void *functions[FUNCTION_COUNT];
};

static struct list *behind;

enum kind { RETURN, HANG, CRASH, CRASH_LATE, CORRUPT, EMULATE };

struct fault {
	char function[32];
	enum kind kind;
	word rv;
	long after, count; /* count < 0: without end */
};

/* The faults in force, and which file they were read from. All guarded by lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct fault faults[64];
static int fault_count;
static struct stat source;

static int parse(const char *line, struct fault *f)
{
	char what[32] = "", option[2][32] = { "", "" };
	memset(f, 0, sizeof *f);
	f->count = -1;
	if (sscanf(line, "%31s %31s %31s %31s", f->function, what, option[0], option[1]) < 2)
		return 0;
	if (strncmp(what, "rv=", 3) == 0) {
		f->kind = RETURN;
		f->rv = strtoul(what + 3, NULL, 0);
	} else if (strcmp(what, "hang") == 0) {
		f->kind = HANG;
	} else if (strcmp(what, "crash") == 0) {
		f->kind = CRASH;
	} else if (strcmp(what, "crash-late") == 0) {
		f->kind = CRASH_LATE;
	} else if (strcmp(what, "corrupt") == 0) {
		f->kind = CORRUPT;
	} else if (strcmp(what, "emulate") == 0) {
		f->kind = EMULATE;
	} else {
		return 0;
	}
	for (int i = 0; i < 2; i++) {
		if (strncmp(option[i], "after=", 6) == 0)
			f->after = strtol(option[i] + 6, NULL, 10);
		else if (strncmp(option[i], "count=", 6) == 0)
			f->count = strtol(option[i] + 6, NULL, 10);
	}
	return 1;
}

/* Reads the control file if it is another one than last time. The caller holds lock. */
static void refresh(void)
{
	const char *path = getenv("SHIM_CONTROL");
	struct stat now;
	char line[160];
	FILE *file;

	if (path == NULL || stat(path, &now) != 0) {
		fault_count = 0;
		memset(&source, 0, sizeof source);
		return;
	}
	if (now.st_ino == source.st_ino && now.st_size == source.st_size && memcmp(&now.st_mtim, &source.st_mtim, sizeof now.st_mtim) == 0)
		return;
	file = fopen(path, "re");
	if (file == NULL)
		return;
	source = now;
	fault_count = 0;
	while (fault_count < (int)(sizeof faults / sizeof *faults) && fgets(line, sizeof line, file) != NULL) {
		if (parse(line, &faults[fault_count]))
			fault_count++;
	}
	fclose(file);
}

/* Looks for a fault that meets this call, and counts the call. */
static int meets(const char *function, struct fault *out)
{
	int met = 0;

	pthread_mutex_lock(&lock);
	refresh();
	for (int i = 0; i < fault_count && !met; i++) {
		struct fault *f = &faults[i];
		if (strcmp(f->function, "*") != 0 && strcmp(f->function, function) != 0)
			continue;
		if (f->after > 0) {
			f->after--;
			continue;
		}
		if (f->count == 0)
			continue;
		if (f->count > 0)
			f->count--;
		*out = *f;
		met = 1;
	}
	pthread_mutex_unlock(&lock);
	return met;
}

/* Returns when the control file no longer says that function hangs. */
static void hang(const char *function)
{
	for (;;) {
		int still = 0;

		usleep(20 * 1000);
		pthread_mutex_lock(&lock);
		refresh();
		for (int i = 0; i < fault_count; i++) {
			if (faults[i].kind == HANG && (strcmp(faults[i].function, "*") == 0 || strcmp(faults[i].function, function) == 0))
				still = 1;
		}
		pthread_mutex_unlock(&lock);
		if (!still)
			return;
	}
}

/* Appends a line to the log. Returns 0 where there is one and it could not be written. */
static int note(const char *function, const char *what)
{
	const char *path = getenv("SHIM_LOG");
	char line[64];
	int size, file, whole;

	if (path == NULL)
		return 1;
	file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (file < 0)
		return 1;
	size = snprintf(line, sizeof line, "%s %s\n", function, what);
	whole = write(file, line, size) == size;
	close(file);
	return whole;
}

static word noted(const char *function, word rv)
{
	char what[24];

	snprintf(what, sizeof what, "0x%lx", rv);
	return note(function, what) ? rv : CKR_GENERAL_ERROR; /* a test must not believe in a log that is not whole */
}

static void crash(const char *function)
{
	note(function, "crash");
	*(volatile int *)0 = 0;
}

typedef word call0(void);
typedef word call1(word);
typedef word call2(word, word);
typedef word call3(word, word, word);
typedef word call4(word, word, word, word);
typedef word call5(word, word, word, word, word);
typedef word call6(word, word, word, word, word, word);
typedef word call8(word, word, word, word, word, word, word, word);

struct attribute {
	word type;
	void *value;
	word size;
};

struct mechanism {
	word type;
	void *parameter;
	word size;
};

#define BEHIND(name, arguments) ((call##arguments *)behind->functions[N_##name])

/*
 * Unwraps a private key with CKM_AES_CBC_PAD in a token that has the mechanism for encryption alone, as SoftHSM: decrypts
 * it, and has the module behind wrap and unwrap the result with CKM_AES_KEY_WRAP_PAD, which it can, under a key of the shim's.
 */
static word unwrap_cbc(word session, word mechanism, word key, word wrapped, word wrapped_size, word template, word count, word out)
{
	enum { CKO_SECRET_KEY = 4, CKK_GENERIC_SECRET = 0x10, CKK_AES = 0x1F, CKA_CLASS = 0, CKA_TOKEN = 1, CKA_VALUE = 0x11, CKA_KEY_TYPE = 0x100,
		CKA_SENSITIVE = 0x103, CKA_WRAP = 0x106, CKA_UNWRAP = 0x107, CKA_EXTRACTABLE = 0x162, CKM_AES_KEY_WRAP_PAD = 0x210A };
	word secret_key = CKO_SECRET_KEY, generic = CKK_GENERIC_SECRET, aes = CKK_AES, carrier, cargo, rv, size;
	unsigned char yes = 1, no = 0, plain[8192], again[8192], value[32] = { 1 };
	struct mechanism wrap = { CKM_AES_KEY_WRAP_PAD, NULL, 0 };

	size = sizeof plain;
	if ((rv = BEHIND(C_DecryptInit, 3)(session, mechanism, key)) != CKR_OK)
		return rv;
	if ((rv = BEHIND(C_Decrypt, 5)(session, wrapped, wrapped_size, (word)plain, (word)&size)) != CKR_OK)
		return rv;
	struct attribute carrier_template[] = {
		{ CKA_CLASS, &secret_key, sizeof secret_key }, { CKA_KEY_TYPE, &aes, sizeof aes }, { CKA_TOKEN, &no, 1 },
		{ CKA_WRAP, &yes, 1 }, { CKA_UNWRAP, &yes, 1 }, { CKA_VALUE, value, sizeof value },
	};
	struct attribute cargo_template[] = {
		{ CKA_CLASS, &secret_key, sizeof secret_key }, { CKA_KEY_TYPE, &generic, sizeof generic }, { CKA_TOKEN, &no, 1 },
		{ CKA_SENSITIVE, &no, 1 }, { CKA_EXTRACTABLE, &yes, 1 }, { CKA_VALUE, plain, size },
	};
	if ((rv = BEHIND(C_CreateObject, 4)(session, (word)carrier_template, 6, (word)&carrier)) != CKR_OK)
		return rv;
	if ((rv = BEHIND(C_CreateObject, 4)(session, (word)cargo_template, 6, (word)&cargo)) != CKR_OK)
		return rv;
	size = sizeof again;
	rv = BEHIND(C_WrapKey, 6)(session, (word)&wrap, carrier, cargo, (word)again, (word)&size);
	if (rv == CKR_OK)
		rv = BEHIND(C_UnwrapKey, 8)(session, (word)&wrap, carrier, (word)again, size, template, count, out);
	BEHIND(C_DestroyObject, 2)(session, carrier);
	BEHIND(C_DestroyObject, 2)(session, cargo);
	return rv;
}

static void damage(word signature, word size)
{
	if (signature != 0 && size != 0)
		((unsigned char *)signature)[0] ^= 1; /* a call without a buffer only asks for the size */
}

/* What a function does: the fault that meets it, else what the module behind does. */
#define BODY(name, call)                                                    \
	struct fault f;                                                     \
	int met = meets(#name, &f);                                         \
	if (met && f.kind == RETURN)                                        \
		return noted(#name, f.rv);                                  \
	if (met && f.kind == CRASH)                                         \
		crash(#name);                                               \
	if (met && f.kind == HANG) {                                        \
		note(#name, "hang");                                        \
		hang(#name);                                                \
		return call;                                                \
	}                                                                   \
	word rv = call;                                                     \
	if (met && f.kind == CRASH_LATE)                                    \
		crash(#name);                                               \
	return noted(#name, rv);

#define WITH1(name) word name(word a) { BODY(name, BEHIND(name, 1)(a)) }
#define WITH2(name) word name(word a, word b) { BODY(name, BEHIND(name, 2)(a, b)) }
#define WITH3(name) word name(word a, word b, word c) { BODY(name, BEHIND(name, 3)(a, b, c)) }
#define WITH4(name) word name(word a, word b, word c, word d) { BODY(name, BEHIND(name, 4)(a, b, c, d)) }
#define WITH5(name)                                                                                              \
	static word behind_##name(int corrupt, word a, word b, word c, word d, word e)                           \
	{                                                                                                        \
		word rv = BEHIND(name, 5)(a, b, c, d, e);                                                        \
		if (corrupt && N_##name == N_C_Sign && rv == CKR_OK)                                             \
			damage(d, *(word *)e);                                                                   \
		return rv;                                                                                       \
	}                                                                                                        \
	word name(word a, word b, word c, word d, word e) { BODY(name, behind_##name(met && f.kind == CORRUPT, a, b, c, d, e)) }
#define WITH6(name) word name(word a, word b, word c, word d, word e, word g) { BODY(name, BEHIND(name, 6)(a, b, c, d, e, g)) }
#define WITH8(name)                                                                                              \
	static word behind_##name(int emulate, word a, word b, word c, word d, word e, word g, word h, word i)   \
	{                                                                                                        \
		if (emulate && N_##name == N_C_UnwrapKey && ((struct mechanism *)b)->type == 0x1085)             \
			return unwrap_cbc(a, b, c, d, e, g, h, i);                                               \
		return BEHIND(name, 8)(a, b, c, d, e, g, h, i);                                                  \
	}                                                                                                        \
	word name(word a, word b, word c, word d, word e, word g, word h, word i)                                \
	{                                                                                                        \
		BODY(name, behind_##name(met && f.kind == EMULATE, a, b, c, d, e, g, h, i))                      \
	}

#define DEFINE(name, arguments) WITH##arguments(name)
FUNCTIONS(DEFINE, )

word C_GetFunctionList(word out);

static struct list own = { 2, 40, {
#define POINTER(name, arguments) (void *)name,
	FUNCTIONS(POINTER, (void *)C_GetFunctionList,)
} };

word C_GetFunctionList(word out)
{
	word rv = CKR_OK;

	pthread_mutex_lock(&lock);
	if (behind == NULL) {
		const char *path = getenv("SHIM_MODULE");
		void *library = path == NULL ? NULL : dlopen(path, RTLD_NOW | RTLD_LOCAL);
		call1 *get = library == NULL ? NULL : (call1 *)dlsym(library, "C_GetFunctionList");
		rv = get == NULL ? CKR_GENERAL_ERROR : get((word)&behind);
		if (rv != CKR_OK) {
			/* Callers that do not look at the return value would crash without a hint. */
			fprintf(stderr, "shim: SHIM_MODULE cannot be loaded: %s\n", dlerror());
			abort();
		}
	}
	pthread_mutex_unlock(&lock);
	*(struct list **)out = &own;
	return rv;
}
