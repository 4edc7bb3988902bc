# The sidecar webhook on a cluster, with the targets and variables that its users know. Everything else of this
# project is in the justfile.

# The image to build and to run.
IMG ?= skep:dev
# The kind cluster of the local targets.
CLUSTER ?= agent-platform
# Inject where neither the MCPServer nor its namespace says anything about it.
ENABLE_CLIENT_REGISTRATION ?= true
# true: certificates come from cert-manager, which has to be there. false: the webhook makes its own.
CERT_MANAGER ?= false
NAMESPACE ?= skep-webhook-system
RELEASE ?= skep-webhook
# Further options of helm: HELM_OPTS="--set replicaCount=2"
HELM_OPTS ?=

CONTAINER_TOOL ?= docker
HELM ?= helm
KIND ?= kind
KUBECTL ?= kubectl

# The local targets work on the kind cluster and on no other, whatever the current context is.
CONTEXT ?= kind-$(CLUSTER)
# deploy and undeploy work on the current context, unless CLUSTER or CONTEXT names another.
ifneq ($(filter command line environment,$(origin CONTEXT) $(origin CLUSTER)),)
  DEPLOY_CONTEXT := --context '$(CONTEXT)'
endif

ifeq ($(filter true false,$(ENABLE_CLIENT_REGISTRATION)),)
  $(error ENABLE_CLIENT_REGISTRATION is true or false, not '$(ENABLE_CLIENT_REGISTRATION)')
endif
ifeq ($(filter true false,$(CERT_MANAGER)),)
  $(error CERT_MANAGER is true or false, not '$(CERT_MANAGER)')
endif

CHART := deploy/helm/skep-webhook
OVERLAY := deploy/kustomize/webhook$(if $(filter false,$(CERT_MANAGER)),/self-signed)
DEPLOYMENT := $(RELEASE)-controller-manager

.DEFAULT_GOAL := help
.PHONY: help local-dev docker-build kind-load-image install-local-chart reinstall-local-chart uninstall-local-chart deploy undeploy

help: ## Print this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  %-24s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@printf '\nVariables: IMG=%s CLUSTER=%s ENABLE_CLIENT_REGISTRATION=%s CERT_MANAGER=%s NAMESPACE=%s\n' \
	  '$(IMG)' '$(CLUSTER)' '$(ENABLE_CLIENT_REGISTRATION)' '$(CERT_MANAGER)' '$(NAMESPACE)'

local-dev: docker-build ## Build the image, load it into the kind cluster CLUSTER, and install the chart there
	$(MAKE) install-local-chart

docker-build: ## Build the image IMG
	$(CONTAINER_TOOL) build --tag '$(IMG)' .

kind-load-image: ## Load the image IMG into the kind cluster CLUSTER
	$(KIND) load docker-image '$(IMG)' --name '$(CLUSTER)'

# The whole name of the image is its repository: a tag is a part of it. Pods of an image that was built anew under
# the old name are replaced.
install-local-chart: kind-load-image ## Install the chart into the kind cluster CLUSTER, or bring it up to date
	$(HELM) upgrade --install '$(RELEASE)' $(CHART) --kube-context '$(CONTEXT)' \
	  --namespace '$(NAMESPACE)' --create-namespace \
	  --set-string 'image.repository=$(IMG)' --set-string image.tag= --set image.pullPolicy=IfNotPresent \
	  --set webhook.enableClientRegistration=$(ENABLE_CLIENT_REGISTRATION) \
	  --set certManager.enabled=$(CERT_MANAGER) $(HELM_OPTS)
	$(KUBECTL) --context '$(CONTEXT)' --namespace '$(NAMESPACE)' rollout restart 'deployment/$(DEPLOYMENT)'
	$(KUBECTL) --context '$(CONTEXT)' --namespace '$(NAMESPACE)' rollout status 'deployment/$(DEPLOYMENT)' --timeout 120s

reinstall-local-chart: uninstall-local-chart ## Remove the chart from the kind cluster CLUSTER and install it again
	$(MAKE) install-local-chart

uninstall-local-chart: ## Remove the chart from the kind cluster CLUSTER
	$(HELM) uninstall '$(RELEASE)' --kube-context '$(CONTEXT)' --namespace '$(NAMESPACE)' --ignore-not-found --wait

# Flags and images are written out in the manifests, so that they can be replaced here without another tool.
deploy: ## Apply deploy/kustomize/webhook with IMG and ENABLE_CLIENT_REGISTRATION to the current cluster
	$(KUBECTL) kustomize $(OVERLAY) \
	  | sed -e 's|skep:latest|$(IMG)|' \
	        -e 's|--enable-client-registration=[a-z]*|--enable-client-registration=$(ENABLE_CLIENT_REGISTRATION)|' \
	  | $(KUBECTL) $(DEPLOY_CONTEXT) apply -f -

undeploy: ## Remove what deploy applied
	$(KUBECTL) kustomize $(OVERLAY) | $(KUBECTL) $(DEPLOY_CONTEXT) delete --ignore-not-found -f -
