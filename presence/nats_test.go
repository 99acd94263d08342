package presence_test

const childURL = "JITNEY_TEST_PRESENCE_URL"

func beChild(url string) {}
